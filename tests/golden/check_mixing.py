"""Checkers for transformed and mixed negatives (archives b_ft, b_mochi)."""

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.losses import feature_transformation as ft
from clr_jax.losses import mochi
from clr_jax.losses.scores import Scores, infonce, pair_scores, queue_scores
from clr_jax.ops import queue as ring
from clr_jax.ops.similarity import l2_normalize, similarity

# Scope of lambda for positives and negatives; None = not transformed.
CASES = {
  'base': (None, None),
  'pos_batch': ('batch', None),
  'pos_row': ('row', None),
  'pos_dim': ('dim', None),
  'neg_batch': (None, 'batch'),
  'neg_row': (None, 'row'),
  'neg_dim': (None, 'dim'),
  'both_batch': ('batch', 'batch'),
  'both_dim': ('dim', 'dim'),
  'posdim_negbatch': ('dim', 'batch'),
  'posbatch_negdim': ('batch', 'dim'),
  'both_dim_postnorm': ('dim', 'dim'),
}
# Between two neighbors of float16: what rounding makes of a last digit of float32.
FLOAT16_STEP = 1e-3


def logits_of(scores, tau):
  return jnp.concatenate([scores.positive[..., None], scores.negative], -1) / tau


def check(case, close, name, scores_of, raw, *, tau, free=True, order=lambda x: x):
  """Logits, loss and gradients of `scores_of` a unit query; returns the scores.

  Args:
    scores_of: unit queries -> Scores.
    raw: un-normalized queries, of which the archive has `grad_u`, and `grad_q` if `free`.
    order: brings results of `scores_of` and gradients into the archive's order of rows.
  """

  def loss(query):
    scores = scores_of(query)
    return infonce(scores, temperature=tau).mean(), scores

  both = jax.jit(
    lambda u: (
      jax.value_and_grad(lambda u: loss(l2_normalize(u)), has_aux=True)(u),
      jax.grad(lambda q: loss(q)[0])(l2_normalize(u)),
    )
  )
  ((value, scores), grad_u), grad_q = both(raw)
  close(order(logits_of(scores, tau)), case[f'{name}__logits'], f'{name} logits')
  close(value, case[f'{name}__loss'], f'{name} loss')
  close(order(grad_u), case[f'{name}__grad_u'], f'{name} grad_u')
  if free:
    close(grad_q, case[f'{name}__grad_q'], f'{name} grad_q')
  return scores


def score_columns(scores, tau):
  """Mean and unbiased variance of the negatives, positive, mean exp(neg/tau), exp(pos/tau)."""
  negative, positive = scores.negative, scores.positive
  exp_negative = jnp.exp(negative / tau).mean(-1)
  columns = [negative.mean(-1), negative.var(-1, ddof=1), positive, exp_negative]
  return np.stack([*columns, jnp.exp(positive / tau)], -1)


def check_columns(case, close, name, columns):
  for c, column in enumerate(columns.T):
    close(column, case[f'{name}__score'][:, c], f'{name} score column {c}')
    if f'{name}__score_f16' in case:
      logged, tolerance = (column.astype('float16'), FLOAT16_STEP) if c < 3 else (column, None)
      close(logged, case[f'{name}__score_f16'][:, c], f'{name} score_f16 column {c}', tolerance)


def _moco(case, close, name, positive, negative):
  lam_ex = case[f'lam_ex_{positive}'] if positive else 1.0
  postnorm = case[f'{name}__postnorm']
  rows = jnp.asarray(case.queue)

  def transform(query):
    return ft.extrapolate(query, case.k, lam_ex, postnorm=postnorm)

  def scores_of(query):
    query, key = transform(query)
    if not negative:
      return queue_scores(query, key, rows)
    lam = case[f'lam_in_{negative}']
    scores = ft.interpolated_scores(query[:, None], rows, lam, case.perm, own=0)[:, 0]
    return Scores(pair_scores(query, key), scores)

  scores = check(case, close, name, scores_of, case.u, tau=case.tau)
  check_columns(case, close, name, score_columns(scores, case.tau))
  for actual, what in zip(transform(l2_normalize(case.u)), ('q_hat', 'k_hat'), strict=True):
    close(actual, case[f'{name}__{what}'], f'{name} {what}')
  if negative:
    neg_hat = ft.interpolate(rows, case[f'lam_in_{negative}'], case.perm)
    close(neg_hat, case[f'{name}__neg_hat'], f'{name} neg_hat')
  queue = ring.enqueue({'rows': rows, 'ptr': jnp.asarray(case.ptr, jnp.int32)}, case.k)
  close(queue['rows'], case[f'{name}__queue_after'], f'{name} queue_after')
  assert int(queue['ptr']) == case[f'{name}__ptr_after'], f'{name} ptr_after'


def _union(case, close):
  rows = jnp.asarray(case.queue)

  def scores_of(query):
    plain = queue_scores(query, case.k, rows)
    mixed = ft.interpolated_scores(query[:, None], rows, case.lam_in_batch, case.perm, own=0)
    return plain._replace(negative=jnp.concatenate([plain.negative, mixed[:, 0]], -1))

  check(case, close, 'union', scores_of, case.u, tau=case.tau, free=False)


def _simclr(case, close, name, positive, negative):
  raw = case.simclr_u.reshape(2, -1, case.simclr_u.shape[-1]).swapaxes(0, 1)  # [N, 2, D]
  lam_ex = case[f'simclr_lam_ex_{positive}'] if positive else 1.0

  def scores_of(z):
    first, second = ft.extrapolate(z[:, 0], z[:, 1], lam_ex)
    anchor, key = jnp.stack([first, second], 1), jnp.stack([second, first], 1)
    rows = jnp.concatenate([z[:, 0], z[:, 1]])
    if negative:
      lam = case[f'simclr_lam_in_{negative}']
      scores = ft.interpolated_scores(anchor, rows, lam, case.simclr_perm, own=2)
    else:
      scores = ft.plain_scores(anchor, rows, own=2)
    return Scores(pair_scores(anchor, key), scores)

  def view_major(x):
    return np.concatenate([x[:, 0], x[:, 1]])

  check(case, close, name, scores_of, raw, tau=case.simclr_tau, free=False, order=view_major)


def _simsiam(case, close, name, positive):
  lam = case[f'simclr_lam_ex_{positive}'] if positive else 1.0

  def loss(raw):
    score = pair_scores(*ft.extrapolate(l2_normalize(raw), case.simsiam_z, lam))
    return -score.mean(), score

  (value, score), grad = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(case.simsiam_p_u))
  close(score, case[f'{name}__score'], f'{name} score')
  close(value, case[f'{name}__loss'], f'{name} loss')
  close(grad, case[f'{name}__grad_u'], f'{name} grad_u')


def b_ft(case, close):
  for name, scopes in CASES.items():
    _moco(case, close, name, *scopes)
  score = pair_scores(*ft.extrapolate(l2_normalize(case.u), case.k, case.lam_ex_batch))
  close(score, case.closed_form_pos_score_batch, 'closed_form_pos_score_batch')
  _union(case, close)
  for name in ('base', 'pos_batch', 'neg_batch', 'both_batch', 'both_dim'):
    _simclr(case, close, f'simclr_{name}', *CASES[name])
  for name in ('base', 'pos_batch', 'pos_dim'):
    _simsiam(case, close, f'simsiam_{name}', CASES[name][0])


def b_mochi(case, close):
  rows, query = jnp.asarray(case.queue), l2_normalize(case.u)
  hard = mochi.hardest(query, rows, case.n_hard)
  np.testing.assert_array_equal(hard, case.hard_idx)
  draws = mochi.Draws(case.rank_i, case.rank_j, case.alpha, case.rank_q, case.beta)
  for actual, what in zip(mochi.mix(query, rows[hard], draws), ('h1', 'h2'), strict=True):
    close(actual, case[what], what)
  for name, added in (('base', ()), ('type1', (0,)), ('type2', (1,)), ('both', (0, 1))):

    def scores_of(query, added=added):
      scores = queue_scores(query, case.k, rows)
      hard = rows[mochi.hardest(query, rows, case.n_hard)]
      mixed = mochi.mix(query, hard, draws)
      parts = [similarity(query[:, None], mixed[i])[:, 0] for i in added]
      return scores._replace(negative=jnp.concatenate([scores.negative, *parts], -1))

    check(case, close, name, scores_of, case.u, tau=case.tau)
