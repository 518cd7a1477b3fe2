"""Feature transformation: identities, bounds, who gets gradient, draws. Numbers: tests/golden."""

import math
import re
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from clr_jax.core.errors import UserError
from clr_jax.losses import feature_transformation as ft
from clr_jax.losses.scores import Scores, infonce, pair_scores, queue_scores
from clr_jax.ops.similarity import l2_normalize, similarity
from tests.losses._cases import batches, compiled, same

ALPHAS = [0.2, 1.6, 2.0, 5.0]
BETA = ft.beta_quantiles(2.0)
draw_positive = compiled(ft.draw_positive, 'shape')
draw_negative = compiled(ft.draw_negative, 'shape')
QUEUE = l2_normalize(jax.random.normal(jax.random.key(3), [6, 4]))


def normal(seed, *shape):
  return l2_normalize(jax.random.normal(jax.random.key(seed), shape))


def weights(scope, places, dim, seed=0):
  """Computes `draw_negative` without compiling it."""
  rng = np.random.default_rng(seed)
  shape = {'batch': (1, 1), 'vector': (1, dim), 'row': (places, 1), 'dim': (places, dim)}[scope]
  lam = rng.beta(1.6, 1.6, shape).astype('float32')
  return jnp.asarray(lam), jnp.asarray(rng.permutation(places).astype('int32'))


# Positives.


@settings(max_examples=20, deadline=None)
@given(z=batches(size=4), lam=st.floats(1, 2))
def test_the_positive_score_follows_the_closed_form_and_never_rises(z, lam):
  q, k = l2_normalize(z[:, 0]), l2_normalize(z[:, 1])
  before, after = pair_scores(q, k), pair_scores(*ft.extrapolate(q, k, lam))
  same(after, 2 * lam * (1 - lam) * (1 - before) + before)
  assert (after <= before + 1e-5).all() and (after >= 5 * before - 4 - 1e-5).all()


@pytest.mark.parametrize('shape', [(), (1, 1, 1), (3, 1, 1), (3, 2, 4)])
def test_lambda_1_is_the_identity_bit_for_bit(shape):
  q, k = normal(0, 2, 3, 2, 4)
  for actual, expected in zip(ft.extrapolate(q, k, jnp.ones(shape)), (q, k), strict=True):
    np.testing.assert_array_equal(actual, expected)


def test_the_query_gets_gradient_through_both_vectors():
  q, k = normal(0, 2, 3, 4)
  lam = 1 + jax.random.uniform(jax.random.key(1), [3, 4])
  of_scores = jax.grad(lambda *x: pair_scores(*ft.extrapolate(*x, lam)).sum(), argnums=(0, 1))
  grads = jax.jit(of_scores)(q, k)
  squares = lam**2 + (1 - lam) ** 2  # of <q_hat, k_hat> per dimension, left over by q^2 and k^2
  same(grads[0], squares * k + 2 * lam * (1 - lam) * q)
  same(grads[1], squares * q + 2 * lam * (1 - lam) * k)


def test_a_scalar_lambda_amplifies_the_gradient_on_the_sphere():
  u, k = jax.random.normal(jax.random.key(0), [2, 3, 4])

  def grad(lam):
    return jax.grad(
      lambda u: pair_scores(*ft.extrapolate(l2_normalize(u), l2_normalize(k), lam)).sum()
    )(u)

  same(grad(1.5), (1 - 2 * 1.5 * (1 - 1.5)) * grad(1.0))


def test_only_postnorm_normalizes():
  q, k = normal(0, 2, 3, 4)
  free, normed = (ft.extrapolate(q, k, 1.7, postnorm=p) for p in (False, True))
  for a, b in zip(free, normed, strict=True):
    assert (jnp.linalg.norm(a, axis=-1) > 1.01).all()
    same(b, l2_normalize(a))


# Negatives.


def naive(anchor, rows, lam, permutation, own):
  """Builds every anchor's own list of negatives."""
  total = len(rows)
  lam = np.broadcast_to(lam, (total - own, rows.shape[1]))
  result = []
  for b in range(len(anchor)):
    mine = [b + j * (total // own) for j in range(own)]
    listed = np.asarray(rows)[[r for r in range(total) if r not in mine]]
    result.append(anchor[b] @ (lam * listed + (1 - lam) * listed[permutation]).T)
  return np.stack(result)


@pytest.mark.slow
@pytest.mark.parametrize('scope', get_args(ft.Scope))
@pytest.mark.parametrize(('own', 'batch', 'total'), [(0, 3, 6), (1, 4, 4), (2, 3, 6)])
def test_scores_are_those_of_lists_made_one_by_one(scope, own, batch, total):
  anchor, rows = normal(0, batch, 2, 5), normal(1, total, 5)
  places = total - own
  lam, permutation = weights(scope, places, 5)
  scores = jax.jit(ft.interpolated_scores, static_argnames='own')(
    anchor, rows, lam, permutation, own=own
  )
  assert scores.shape == (batch, 2, places)
  same(scores, naive(anchor, rows, lam, permutation, own))
  straight = naive(anchor, rows, 1.0, np.arange(places), own)
  same(ft.plain_scores(anchor, rows, own=own), straight)


@pytest.mark.parametrize('scope', get_args(ft.Scope))
@pytest.mark.parametrize('own', [1, 2])
def test_no_row_of_the_own_sample_is_among_its_negatives(scope, own):
  anchor, rows = normal(0, 3, 2, 4), normal(1, 3 * own, 4)
  lam, permutation = weights(scope, len(rows) - own, 4)

  def total(rows):  # [B] sums over views and positions
    return ft.interpolated_scores(anchor, rows, lam, permutation, own=own).sum((1, 2))

  reached = np.abs(jax.jit(jax.jacobian(total))(rows)).sum(-1) > 0  # [B, M]
  mine = np.arange(3)[:, None] == np.arange(3 * own)[None] % 3
  np.testing.assert_array_equal(reached, ~mine)


@pytest.mark.parametrize('own', [0, 1, 2])
def test_lambda_1_gives_the_plain_scores_and_lambda_0_their_permutation(own):
  anchor, rows = normal(0, 3, 2, 4), normal(1, 6 if own == 0 else 3 * own, 4)
  permutation = jnp.asarray(np.random.default_rng(0).permutation(len(rows) - own))
  plain = ft.plain_scores(anchor, rows, own=own)
  for lam in (1.0, jnp.ones([1, 1]), jnp.ones([len(permutation), 1])):
    actual = ft.interpolated_scores(anchor, rows, lam, permutation, own=own)
    np.testing.assert_array_equal(actual, plain)
  same(
    ft.interpolated_scores(anchor, rows, jnp.ones([len(permutation), 4]), permutation, own=own),
    plain,
  )
  swapped = ft.interpolated_scores(anchor, rows, 0.0, permutation, own=own)
  same(swapped, plain[..., permutation])
  positive = jnp.ones(plain.shape[:-1])
  losses = [infonce(Scores(positive, s), temperature=0.2) for s in (swapped, plain)]
  same(*losses)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_norms_of_interpolated_rows(seed):
  for scope, limit in (('batch', 1.0), ('row', 1.0), ('dim', math.sqrt(2))):
    lam, permutation = weights(scope, *QUEUE.shape, seed)
    mixed = ft.interpolate(QUEUE, lam, permutation)
    assert (jnp.linalg.norm(mixed, axis=-1) <= limit + 1e-6).all()
  one_hot = ft.interpolate(jnp.eye(2), jnp.eye(2), jnp.array([1, 0]))
  same(jnp.linalg.norm(one_hot, axis=-1), np.full(2, math.sqrt(2)))  # dim: the bound is reached


@pytest.mark.parametrize('scope', get_args(ft.Scope))
@pytest.mark.parametrize('own', [0, 2])
def test_no_array_of_one_list_of_vectors_per_anchor(scope, own):
  """[B, V, M, D], or [B, M, D], would be gigabytes."""
  batch, dim = 8, 16
  rows = normal(1, 2 * batch, dim)
  lam, permutation = weights(scope, len(rows) - own, dim)
  anchor = normal(0, batch, 2, dim)
  grad = jax.grad(
    lambda a, r: ft.interpolated_scores(a, r, lam, permutation, own=own).sum(), argnums=(0, 1)
  )
  sizes = re.findall(r'(?:f|i|u|bool)\d*\[([\d,]+)\]', str(jax.make_jaxpr(grad)(anchor, rows)))
  largest = max(math.prod(map(int, size.split(','))) for size in sizes)
  assert batch * 2 * (len(rows) - own) <= largest <= batch * 2 * len(rows)


def test_a_wrong_number_of_negatives_is_refused():
  with pytest.raises(UserError, match='permutation of 4 negatives'):
    ft.interpolated_scores(normal(0, 3, 2, 4), QUEUE, 0.5, jnp.arange(6), own=2)


def test_float64(x64):
  q, k = (jnp.asarray(np.asarray(x), 'float64') for x in normal(0, 2, 3, 4))
  rows = jnp.asarray(np.asarray(QUEUE), 'float64')
  lam, permutation = ft.draw_negative(jax.random.key(0), (6, 4), scope='dim', quantiles=BETA)
  assert lam.dtype == 'float64' and permutation.dtype == 'int32'
  assert all(x.dtype == 'float64' for x in ft.extrapolate(q, k, 1.5))
  scores = ft.interpolated_scores(q[:, None], rows, lam, permutation, own=0)
  np.testing.assert_allclose(
    scores[:, 0], similarity(q, lam * rows + (1 - lam) * rows[permutation]), atol=1e-14
  )
  plain = ft.plain_scores(q[:, None], rows, own=0)
  np.testing.assert_array_equal(plain[:, 0], queue_scores(q, k, rows).negative)


def test_half_precision_is_widened():
  q, k = normal(0, 2, 3, 4).astype(jnp.bfloat16)
  assert all(x.dtype == 'float32' for x in ft.extrapolate(q, k, 1.5))
  scores = ft.interpolated_scores(q[:, None], QUEUE.astype(jnp.bfloat16), 0.5, jnp.arange(6), own=0)
  assert scores.dtype == 'float32'


# Draws.


@pytest.mark.parametrize('alpha', ALPHAS)
def test_the_table_has_the_distribution(alpha):
  table = ft.beta_quantiles(alpha)
  same(table, 1 - table[::-1])
  assert table[0] == 0 and table[-1] == 1 and (np.diff(table) >= 0).all()
  u = np.linspace(0, 0.5, 100_001)  # near 1, Beta(0.2, 0.2) is below the spacing of floats
  drawn = np.interp(u, np.linspace(0, 1, len(table)), table)
  assert np.abs(special.betainc(alpha, alpha, drawn) - u).max() < 1 / 4096
  start, end = table[:-1], table[1:]  # moments of a piecewise linear quantile function
  assert abs((start + end).mean() / 2 - 0.5) < 1e-12
  variance = ((start**2 + start * end + end**2) / 3).mean() - 0.25
  relative = abs(variance * 4 * (2 * alpha + 1) - 1)
  assert relative < (2e-5 if alpha <= 2 else 1e-3)


@pytest.mark.parametrize('alpha', ALPHAS)
def test_draws_pass_a_test_of_their_distribution(alpha):
  lam, _ = ft.draw_negative(
    jax.random.key(0), (2000, 10), scope='dim', quantiles=ft.beta_quantiles(alpha)
  )
  lam = np.ravel(lam)
  lower = lam[lam < 0.5]  # near 1, Beta(0.2, 0.2) is below the spacing of floats
  assert abs(len(lower) / len(lam) - 0.5) < 0.01
  assert stats.kstest(2 * special.betainc(alpha, alpha, lower), 'uniform').pvalue > 0.01


def test_uniform_draws():
  quantiles = ft.beta_quantiles(9.0, 'uniform')
  lam, _ = ft.draw_negative(jax.random.key(0), (2000, 10), scope='dim', quantiles=quantiles)
  assert stats.kstest(np.ravel(lam), 'uniform').pvalue > 0.01


@pytest.mark.slow
def test_scopes_of_the_draws():
  shapes = {'batch': (1, 1, 1), 'vector': (1, 1, 8), 'row': (5, 2, 1), 'dim': (5, 2, 8)}
  for scope, shape in shapes.items():
    lam = draw_positive(jax.random.key(0), (5, 2, 8), scope=scope, quantiles=BETA)
    assert lam.shape == shape and (lam > 1).all() and (lam < 2).all()
    assert len(np.unique(lam)) == lam.size
  for scope, shape in {'batch': (1, 1), 'vector': (1, 8), 'row': (7, 1), 'dim': (7, 8)}.items():
    lam, partner = draw_negative(jax.random.key(0), (7, 8), scope=scope, quantiles=BETA)
    assert lam.shape == shape and (lam > 0).all() and (lam < 1).all()
    assert partner.dtype == 'int32'
    np.testing.assert_array_equal(np.sort(partner), np.arange(7))


def test_bad_hyper_parameters_are_refused():
  with pytest.raises(UserError, match='above 0'):
    ft.beta_quantiles(0.0)
  with pytest.raises(UserError, match='choose one of beta, uniform'):
    ft.beta_quantiles(2.0, 'normal')
  with pytest.raises(UserError, match='batch, vector, row, dim'):
    ft.draw_positive(jax.random.key(0), (2, 3), scope='sample', quantiles=BETA)
