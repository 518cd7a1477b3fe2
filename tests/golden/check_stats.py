"""Checker for the score log, histograms, curves and the gradient landscape (archive b_stats)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clr_jax.losses import score_statistics as statistics
from clr_jax.losses.contrastive import ntxent
from clr_jax.losses.scores import queue_scores, score_sets
from clr_jax.ops.gradient_statistics import landscape
from tests.golden.check_curves import check_curves

LAYERS = ('W1', 'b1', 'W2', 'b2')


def b_stats(case, close):
  score_log(case, close)
  histograms(case, close)
  along_gradient(case, close)
  check_curves(case, close)


def score_log(case, close):
  @jax.jit
  def run(q, k):
    sets = score_sets(queue_scores(q, k, case.queue), temperature=case.tau)
    rows = statistics.score_rows(sets)
    edges = case.hist_edges
    counts = statistics.histogram(sets.positive, edges), statistics.histogram(sets.negative, edges)
    return jnp.stack(rows, -1), statistics.logged_rows(rows), statistics.series(rows), counts

  found = [run(q, k) for q, k in zip(case.q, case.k, strict=True)]
  rows, logged, series, counts = jax.tree.map(lambda *x: np.stack(x), *found)
  for column, name in enumerate(statistics.ScoreRows._fields):
    close(rows[..., column], case.score_rows[..., column], name)
    # In float32 a score may round to the neighboring float16.
    expected = case.score_rows_f16[..., column]
    close(logged[..., column], expected, f'{name} as logged', 1e-3 if column < 3 else None)
  assert sorted(series) == sorted(k.removeprefix('series_') for k in case if k[:7] == 'series_')
  for name, value in series.items():
    close(value, case[f'series_{name}'], f'series_{name}')
  # Counts of the steps add up.
  for name, value in zip(('pos', 'neg'), counts, strict=True):
    close(value.sum(0), [0, *case[f'hist_{name}'], 0], f'hist_{name}')


def histograms(case, close):
  counts = jax.jit(statistics.histogram)(case.hist_ext_values, case.hist_edges)
  close(counts, [case.hist_ext_under, *case.hist_ext, case.hist_ext_over], 'hist_ext')


def along_gradient(case, close):
  params = {name: jnp.asarray(case[f'land_{name}']) for name in LAYERS}

  def loss(w):
    z = jnp.tanh(case.land_x @ w['W1'].T + w['b1'][None]) @ w['W2'].T + w['b2'][None]
    views = jnp.stack(jnp.split(z, 2), 1)  # rows i and i + N are the views of image i
    return ntxent(views, temperature=case.land_tau).mean()

  found = landscape(jax.jit(jax.value_and_grad(loss)), params, case.land_etas.tolist())
  close(found.loss, case.land_loss0, 'land_loss0')
  close([found.norms[name] for name in LAYERS], case.land_layer_norms, 'land_layer_norms')
  close(optax.tree.norm(found.norms), case.land_global_norm, 'land_global_norm')
  close(found.losses, case.land_losses, 'land_losses')
  close(found.grad_norms, case.land_grad_norms, 'land_grad_norms')
  close(found.grad_differences, case.land_grad_diff, 'land_grad_diff')
