"""Feature transformation: harder positives by extrapolation, new negatives by interpolation.

Zhu et al., Improving Contrastive Learning by Visualizing Feature Transformation
(https://arxiv.org/abs/2108.02982), after the authors' code
(https://github.com/DTennant/CL-Visualizing-Feature-Transformation). Nothing is re-normalized
unless requested, so the scores may leave [-1, 1]. Rows stored in a queue stay untransformed.

The scope of the mixing weight `lam` is one draw for all (`batch`), one for each dimension and the
same for all rows (`vector`), one for each row (`row`), or one for each row and dimension (`dim`).
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.types import Array
from clr_jax.ops.similarity import at_least_float32, l2_normalize, similarity

Distribution = Literal['beta', 'uniform']
Scope = Literal['batch', 'vector', 'row', 'dim']
_CELLS = 4096  # intervals of the table of quantiles


def beta_quantiles(alpha: float, distribution: Distribution = 'beta') -> np.ndarray:
  """Table of quantiles at equally spaced probabilities 0..1, float64, computed on the host.

  Drawing `lam` by table look-up replaces `jax.random.beta`, a rejection sampler about a hundred
  times slower (CPU), too slow for K x D numbers in every step. The 4097 nodes are exact, so the
  distribution is off by less than 1/4096 (Kolmogorov-Smirnov distance; 6e-5 at alpha = 2). The
  mean is exact, the variance off by 2e-5 of itself at alpha = 2, less below, 5e-4 at 5, 2e-3 at 10.

  Args:
    alpha: > 0, both parameters of the Beta distribution; the paper's best are 2.0 for positives and
      1.6 for negatives. Not used for 'uniform'.
    distribution: 'beta' = Beta(alpha, alpha), or 'uniform' on [0, 1], whose table is exact.

  Raises:
    UserError: alpha <= 0, or an unknown distribution.
  """
  check_name(get_args(Distribution), distribution, 'distribution of lambda')
  if distribution == 'uniform':
    return np.array([0.0, 1.0])
  if not alpha > 0:
    raise UserError(f'alpha of the Beta distribution of lambda must be above 0, not {alpha}')
  lower = special.betaincinv(alpha, alpha, np.linspace(0.0, 0.5, _CELLS // 2 + 1))
  return np.concatenate([lower, 1.0 - lower[-2::-1]])


def _draw(key: Array, shape: tuple[int, ...], *, scope: Scope, quantiles: np.ndarray) -> Array:
  """One weight in [0, 1] for each cell of the scope, with axes of length 1 for what shares it."""
  check_name(get_args(Scope), scope, 'scope of lambda')
  rows, dim = shape[:-1], shape[-1]
  cells = {
    'batch': (1,) * len(shape),
    'vector': (*(1 for _ in rows), dim),
    'row': (*rows, 1),
    'dim': (*rows, dim),
  }[scope]
  uniform = jax.random.uniform(key, cells)
  table = jnp.asarray(quantiles, uniform.dtype)
  place = uniform * (len(quantiles) - 1)
  cell = place.astype(jnp.int32)
  start = table[cell]
  return start + (place - cell) * (table[cell + 1] - start)


def draw_positive(
  key: Array, shape: tuple[int, ...], *, scope: Scope, quantiles: np.ndarray
) -> Array:
  """Weights `lam` in [1, 2] for `extrapolate`: 1 + a draw.

  Args:
    key: random key.
    shape: (*rows, D) of the vectors to transform.
    scope: 'batch', 'vector', 'row' or 'dim'; the result has shape [1, ..., 1], [1, ..., D],
      [*rows, 1] or [*rows, D].
    quantiles: from `beta_quantiles`.

  Raises:
    UserError: unknown scope.
  """
  return 1.0 + _draw(key, shape, scope=scope, quantiles=quantiles)


def draw_negative(
  key: Array, shape: tuple[int, int], *, scope: Scope, quantiles: np.ndarray
) -> tuple[Array, Array]:
  """Weights `lam` in [0, 1] and partners [K] int32 for `interpolate`, `interpolated_scores`.

  Args:
    key: random key.
    shape: (K, D), K = number of negatives of an anchor.
    scope: 'batch', 'vector', 'row' or 'dim'; the weights have shape [1, 1], [1, D], [K, 1] or
      [K, D].
    quantiles: from `beta_quantiles`.

  Raises:
    UserError: unknown scope.
  """
  weight_key, partner_key = jax.random.split(key)
  partner = jax.random.permutation(partner_key, jnp.arange(shape[0], dtype=jnp.int32))
  return _draw(weight_key, shape, scope=scope, quantiles=quantiles), partner


def extrapolate(
  query: Array, key: Array, lam: float | Array, *, postnorm: bool = False
) -> tuple[Array, Array]:
  """Moves a pair apart: lam q + (1 - lam) k and lam k + (1 - lam) q, [..., D] each.

  For unit vectors with inner product S and one lam per pair, the new inner product is
  S + 2 lam (1 - lam) (1 - S), between 5 S - 4 and S. As in the authors' code, the query carries
  gradient into both results; detach the key first if the method does.

  Args:
    query, key: [..., D] unit vectors.
    lam: >= 1, broadcasts to them.
    postnorm: re-normalize both results; default False (the authors' code).
  """
  query, key = at_least_float32(query), at_least_float32(key)
  lam = jnp.asarray(lam, query.dtype)
  query, key = lam * query + (1 - lam) * key, lam * key + (1 - lam) * query
  return (l2_normalize(query), l2_normalize(key)) if postnorm else (query, key)


def interpolate(rows: Array, lam: float | Array, permutation: Array) -> Array:
  """lam n_j + (1 - lam) n_permutation(j) for rows n [K, D] of a queue, [K, D].

  For unit rows, norms are at most 1 with one lam per row, at most sqrt(2) with scope `dim`.

  Args:
    rows: [K, D].
    lam: in [0, 1], scalar, [1, 1], [1, D], [K, 1] or [K, D].
    permutation: [K] int.
  """
  rows = at_least_float32(rows)
  lam = jnp.asarray(lam, rows.dtype)
  return lam * rows + (1 - lam) * rows[permutation]


def _skipped(batch: int, total: int, own: int) -> Array:
  """Number of own rows [B, total - own] that precede the negative at a position of a sample.

  Own row j of sample b is row b + j total / own; without it and the j before it, the negatives from
  position b + j (total / own - 1) on are one row further.
  """
  position, sample = jnp.arange(total - own)[None], jnp.arange(batch)[:, None]
  count = jnp.zeros([batch, total - own], jnp.int32)
  for j in range(own):
    count += sample + j * (total // own - 1) <= position
  return count


def _choose(candidates: list[Array], skipped: Array) -> Array:
  """candidates[skipped[b, p]][b, v, p], by selects, whose gradient needs no scatter."""
  chosen = candidates[0]
  for count, candidate in enumerate(candidates[1:], 1):
    chosen = jnp.where(skipped[:, None] == count, candidate, chosen)
  return chosen


def plain_scores(anchor: Array, rows: Array, *, own: int) -> Array:
  """Inner products of anchors with their negatives only, [B, V, M - own].

  Args:
    anchor: [B, V, D] of B samples.
    rows: [M, D].
    own: number of rows that belong to an anchor's own sample and are not negatives: rows b,
      b + M / own, ... of sample b. 0 = a queue, 1 = keys of one view, 2 = view-major rows of both
      views. The negatives of an anchor are the other rows in ascending order.
  """
  batch, total = len(anchor), len(rows)
  scores = similarity(at_least_float32(anchor), at_least_float32(rows))
  places = total - own
  slices = [scores[..., shift : shift + places] for shift in range(own + 1)]
  return _choose(slices, _skipped(batch, total, own))


def interpolated_scores(
  anchor: Array, rows: Array, lam: float | Array, permutation: Array, *, own: int
) -> Array:
  """Inner products of anchors with their interpolated negatives, [B, V, M - own].

  The negative at position p of an anchor becomes lam_p n_p + (1 - lam_p) n_permutation(p).
  Permutation and lam refer to positions in the list of an anchor's negatives, so no positive can
  leak in. Samples have different rows at a position, but no [B, M, D] array is built.

  Args:
    anchor: [B, V, D].
    rows: [M, D]; gradient flows into them, so detach keys and queues first.
    lam: in [0, 1], scalar, [1, 1], [1, D], [M - own, 1] or [M - own, D].
    permutation: [M - own] int.
    own: as in `plain_scores`.

  Raises:
    UserError: the permutation does not have one entry per negative.
  """
  places = len(rows) - own
  if permutation.shape != (places,):
    raise UserError(
      f'{len(rows)} rows, {own} of them own, need a permutation of {places} negatives, '
      f'not one of shape {permutation.shape}'
    )
  anchor, rows = at_least_float32(anchor), at_least_float32(rows)
  if own == 0:
    return similarity(anchor, interpolate(rows, lam, permutation))
  lam = jnp.asarray(lam, rows.dtype)
  if lam.ndim == 0 or lam.shape[-1] == 1:  # scores are linear in the negatives
    scores, lam = plain_scores(anchor, rows, own=own), lam.reshape(1, 1, -1)
    return lam * scores + (1 - lam) * scores[..., permutation]

  skipped = _skipped(len(anchor), len(rows), own)

  def weighted(weight, position):  # <anchor, weight_p * (the negative at position_p)>
    candidates = [similarity(anchor, weight * rows[position + shift]) for shift in range(own + 1)]
    return _choose(candidates, skipped[:, position])

  return weighted(lam, jnp.arange(places)) + weighted(1 - lam, permutation)
