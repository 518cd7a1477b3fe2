"""Checkers for margins and gradient scaling (archives b_margin and b_gradscale).

Both archives are one case and hold three styles: a queue, MoCo v3 (keys of the batch, two
directions) and NT-Xent (rows of both views). Gradients are those of the raw vectors.
"""

import functools
import itertools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.losses import margin
from clr_jax.losses import scores as losses
from clr_jax.ops.similarity import l2_normalize

# Every number of a loss, so that a style compiles once whatever is swept.
NEUTRAL = {'m1': 0.0, 'm2': 0.0, 'beta': 1.0}
NEUTRAL |= {'emphasis': 1.0, 'curvature': np.inf, 'strength': 1.0}
LOOSE = {'wide_raw': 1e-3}  # the README: positives at the edge of the convention


def _queue(raw, k, queue):
  query = l2_normalize(raw['u'])
  return [(losses.queue_scores(query, k, queue), margin.sine(query, k))]


def _inbatch(raw, k1, k2):
  directions = []
  for p, k in ((raw['p1'], k2), (raw['p2'], k1)):
    anchor, rows = l2_normalize(p)[:, None], l2_normalize(k)
    key = rows[:, None]
    directions.append((losses.batch_scores(anchor, key, rows, own=1), margin.sine(anchor, key)))
  return directions


def _ntxent(raw):
  rows = l2_normalize(raw['z'])
  anchor = jnp.swapaxes(rows.reshape(2, -1, rows.shape[-1]), 0, 1)
  key = anchor[:, ::-1]
  return [(losses.batch_scores(anchor, key, rows, own=2), margin.sine(anchor, key))]


STYLES = {  # scores and sines by direction; vectors with gradient; constants
  'queue': (_queue, ['u'], ['k', 'queue']),
  'inbatch': (_inbatch, ['p1', 'p2'], ['k1', 'k2']),
  'ntxent': (_ntxent, ['z'], []),
}


def inputs(case, style):
  """Vectors with gradient, by name, and a list of constants."""
  _, names, constants = STYLES[style]
  raw = {name: jnp.asarray(case[f'{style}_{name}']) for name in names}
  return raw, [jnp.asarray(case[f'{style}_{name}']) for name in constants]


def with_margin(scores, sine, m1, m2, beyond='raw'):
  options = {'angular': m1, 'subtractive': m2, 'beyond': beyond}
  return scores._replace(positive=margin.add_margin(scores.positive, sine, **options))


@functools.partial(jax.jit, static_argnames=('style', 'beyond', 'attenuation'))
def value_and_grad(raw, constants, tau, numbers, *, style, beyond='raw', attenuation='none'):
  """Margins, scaling, InfoNCE: mean over anchors, sum over directions."""

  def loss(raw, m1, m2, beta, **scaling):
    total = 0.0
    for scores, sine in STYLES[style][0](raw, *constants):
      options = {'temperature': tau, 'attenuation': attenuation, 'plain': scores, **scaling}
      scores = margin.scale_scores(with_margin(scores, sine, m1, m2, beyond), **options)
      total += losses.infonce(scores, temperature=tau, beta=beta).mean()
    return total

  return jax.value_and_grad(loss)(raw, **numbers)


@functools.partial(jax.jit, static_argnames='style')
def by_angle(raw, constants, tau, numbers, *, style):
  """d/dtheta of each anchor's own loss, [(2 directions,) anchors, columns]."""

  def total(cosines, scores):
    scores = losses.Scores(cosines[0], cosines[1], scores.where)
    scores = with_margin(scores, jnp.sqrt(1 - cosines[0] ** 2), **numbers)
    return losses.infonce(scores, temperature=tau).sum()

  result = []
  for scores, sine in STYLES[style][0](raw, *constants):
    positive, negative = jax.grad(total)((scores.positive, scores.negative), scores)
    sines = jnp.sqrt(jnp.where(scores.mask, 1 - scores.negative**2, 0.0))
    result.append(_matrix(style, -positive * sine, -negative * sines))
  return jnp.stack(result) if len(result) > 1 else result[0]


def _matrix(style, positive, negative):
  """Positives and negatives in one matrix, rows and columns in the archive's order."""
  if style == 'queue':
    return jnp.concatenate([positive[:, None], negative], -1)
  positive = jnp.swapaxes(positive, 0, 1).reshape(-1)
  matrix = jnp.swapaxes(negative, 0, 1).reshape(len(positive), -1)
  row = jnp.arange(len(positive))
  column = jnp.roll(row, len(row) // 2) if style == 'ntxent' else row
  return matrix.at[row, column].set(positive)


def sweep(function, case, style, given=None, **numbers):
  """`function` at every combination of the numbers, with one axis for each that is a list."""
  raw, constants = given or inputs(case, style)
  dtype = next(iter(raw.values())).dtype
  lists = {name: np.asarray(x, dtype) for name, x in numbers.items()}
  results = [
    function(raw, constants, case.tau, dict(zip(lists, values, strict=True)), style=style)
    for values in itertools.product(*(x.ravel() for x in lists.values()))
  ]
  shape = [len(x) for x in lists.values() if x.ndim]
  return jax.tree.map(lambda *x: np.stack(x).reshape([*shape, *x[0].shape]), *results)


def compare(case, close, style, prefix, *, loss=None, given=None, numbers, **static):
  """Losses (with prefix + loss, or all with `loss`) and gradients over a sweep; the losses."""
  function = functools.partial(value_and_grad, **static)
  values, grads = sweep(function, case, style, given, **{**NEUTRAL, **numbers})
  tolerance = LOOSE.get(prefix.removesuffix('__'))
  expected = case[f'{prefix}loss'] if loss is None else np.broadcast_to(loss, values.shape)
  close(values, expected, f'{prefix}loss')
  for name, grad in grads.items():
    close(grad, case[f'{prefix}grad_{name}'], f'{prefix}grad_{name}', tolerance)
  return values


def b_margin(case, close):
  grid = {'m1': case.m1_grid, 'm2': case.m2_grid}
  for style in STYLES:
    compare(case, close, style, f'{style}_grid_', numbers=grid)
    angles = sweep(by_angle, case, style, **grid)
    close(angles, case[f'{style}_grid_dL_dtheta'], f'{style}_grid_dL_dtheta')
    for key in list(case):
      if key.startswith(f'{style}_beta') and key.endswith('__beta'):
        prefix = key.removesuffix('beta')
        numbers = {name: case[prefix + name] for name in ('m1', 'm2', 'beta')}
        compare(case, close, style, prefix, numbers=numbers)
  value, _ = sweep(value_and_grad, case, 'inbatch', **NEUTRAL)
  close(2 * case.tau * value, case.inbatch_mocov3_loss_zero_margin, 'mocov3_loss')

  for family, names in (('wide', get_args(margin.Beyond)), ('near', ['raw'])):
    raw, key = {'u': jnp.asarray(case[f'{family}_u'])}, jnp.asarray(case[f'{family}_k'])
    scores, sine = _queue(raw, key, case.queue_queue)[0]
    angle = jnp.arctan2(sine, scores.positive)
    close(angle, case[f'{family}_theta_pos'], f'{family}_theta_pos')
    numbers = {'m1': case[f'{family}_m1'], 'm2': case[f'{family}_m2']}
    given = raw, [key, jnp.asarray(case.queue_queue)]
    for beyond in names:
      prefix = f'wide_{beyond}__' if family == 'wide' else 'near__'
      compare(case, close, 'queue', prefix, given=given, numbers=numbers, beyond=beyond)


def b_gradscale(case, close):
  lists = {'s': {'emphasis': case.s_list}}
  lists['sc'] = {**lists['s'], 'curvature': case.c_list}
  lists['typeI'] = lists['typeII'] = {'strength': case.alpha_list}
  kinds = {'typeI': 'type1', 'typeII': 'type2'}
  combo = {'emphasis': 's', 'curvature': 'curv', 'm1': 'm1', 'm2': 'm2'}
  for style in STYLES:
    for name, numbers in lists.items():
      options = {'loss': case[f'{style}_loss'], 'attenuation': kinds.get(name, 'none')}
      compare(case, close, style, f'{style}_{name}_', numbers=numbers, **options)
    numbers = {name: case[f'{style}_combo__{key}'] for name, key in combo.items()}
    compare(case, close, style, f'{style}_combo__', numbers=numbers)

  raw, constants = inputs(case, 'queue')
  scores, sine = _queue(raw, *constants)[0]
  p = jnp.exp(losses.log_p_positive(scores, temperature=case.tau))
  close(p, case.queue_p_pos, 'queue_p_pos')
  close(jnp.arctan2(sine, scores.positive), case.queue_theta_pos, 'queue_theta_pos')
  curves = jnp.stack([margin.curve(scores.positive, c) for c in case.c_list])
  close(curves, case.queue_curve, 'queue_curve')

  @jax.jit
  @jax.value_and_grad
  def byol(p, curvature):
    cosine = losses.pair_scores(l2_normalize(p), case.byol_z)
    return (2 - 2 * margin.scale_gradient(cosine, margin.curve(cosine, curvature))).mean()

  for curvature, expected in zip(case.c_list, case.byol_curv_grad_p, strict=True):
    value, grad = byol(jnp.asarray(case.byol_p), curvature)
    close(value, case.byol_loss, 'byol_loss')
    close(grad, expected, f'byol_curv_grad_p, c = {curvature}')
