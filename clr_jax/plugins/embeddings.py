"""Plug-ins that act on embeddings, before they are compared: see `clr_jax.plugins.pipeline`."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.types import Array, RunInfo
from clr_jax.losses import feature_transformation as ft
from clr_jax.losses import mochi as mixing

_SCOPES = ('none', *ft.SCOPES)


class FeatureTransformation(NamedTuple):
  """Settings made by `feature_transformation`."""

  positive: str
  negative: str
  positive_quantiles: np.ndarray
  negative_quantiles: np.ndarray
  union: bool
  postnorm: bool
  start: float

  def move_pair(self, rng: Array, query: Array, key: Array, step: Array) -> tuple[Array, Array]:
    """`ft.extrapolate` of [B, ..., D]; the views of an image share their draw."""
    if self.positive == 'none':
      return query, key
    query, key = jnp.broadcast_arrays(query, key)
    lam = ft.draw_positive(
      rng, (len(query), query.shape[-1]), scope=self.positive, quantiles=self.positive_quantiles
    )
    lam = lam.reshape(lam.shape[0], *[1] * (query.ndim - 2), lam.shape[1]).astype(query.dtype)
    started = step >= self.start
    lam = jnp.where(started, lam, 1.0)
    return ft.extrapolate(query, key, lam, postnorm=self.postnorm)

  def negatives(
    self, rng: Array, query: Array, rows: Array, *, own: int, step: Array
  ) -> tuple[Array, Array | None]:
    """Scores of [B, V, D] against interpolated rows, behind the plain ones with `union`; mask."""
    places = len(rows) - own
    lam, partner = ft.draw_negative(
      rng, (places, rows.shape[-1]), scope=self.negative, quantiles=self.negative_quantiles
    )
    started = step >= self.start
    lam = jnp.where(started, lam.astype(rows.dtype), 1.0)
    scores = ft.interpolated_scores(query, rows, lam, partner, own=own)
    if not self.union:
      return scores, None
    plain = ft.plain_scores(query, rows, own=own)
    where = started | (jnp.arange(2 * places) < places)
    return jnp.concatenate([plain, scores], -1), jnp.broadcast_to(
      where, (*plain.shape[:-1], 2 * places)
    )


def feature_transformation(
  info: RunInfo,
  *,
  positive: str = 'none',
  negative: str = 'none',
  positive_alpha: float = 2.0,
  negative_alpha: float = 1.6,
  distribution: str = 'beta',
  union: bool = False,
  postnorm: bool = False,
  start_epoch: float = 0.0,
) -> FeatureTransformation | None:
  """Zhu et al., https://arxiv.org/abs/2108.02982: positives extrapolated, negatives interpolated.

  Args:
    positive: 'none', or one draw of the weight for the 'batch' (the published commands), each 'row'
      or each row and 'dim'.
    negative: the same for the negatives.
    positive_alpha: of Beta(a, a); 2.0 (code, best of the paper's table).
    negative_alpha: 1.6 (code, best of the paper's table).
    distribution: 'beta' or 'uniform' (an option of the code).
    union: the interpolated negatives are added to the plain ones instead of replacing them.
    postnorm: re-normalises the extrapolated pair; False in the code.
    start_epoch: epochs without it at the start; 0 (code and paper: the earlier the better).
  """
  for key, value in (('positive', positive), ('negative', negative)):
    check_name(_SCOPES, value, f'plugins.feature_transformation.{key}')
  if union and negative == 'none':
    raise UserError(
      'plugins.feature_transformation.union adds interpolated negatives: set '
      "plugins.feature_transformation.negative to 'batch', 'row' or 'dim' too"
    )
  if postnorm and positive == 'none':
    raise UserError(
      'plugins.feature_transformation.postnorm is of the extrapolated pair: set '
      "plugins.feature_transformation.positive to 'batch', 'row' or 'dim' too"
    )
  if positive == negative == 'none':
    return None
  return FeatureTransformation(
    positive,
    negative,
    ft.beta_quantiles(positive_alpha, distribution),
    ft.beta_quantiles(negative_alpha, distribution),
    union,
    postnorm,
    _start_step('feature_transformation', start_epoch, info),
  )


class Mochi(NamedTuple):
  """Settings made by `mochi`."""

  num_hard: int
  num_mixed: int
  num_query_mixed: int
  start: float

  def negatives(
    self, rng: Array, query: Array, rows: Array, *, where: Array | None, own: int
  ) -> Array:
    """Synthetic negatives [B, V, s + s', D] of queries [B, V, D], constants."""
    if self.num_hard > len(rows) - own:
      raise UserError(
        f'there are {len(rows) - own} negatives to choose plugins.mochi.num_hard={self.num_hard} '
        f'from: lower it'
      )
    hard = rows[mixing.hardest(query, rows, self.num_hard, where=where)]
    sizes = {k: v for k, v in self._asdict().items() if k.startswith('num_')}
    draws = mixing.draw(rng, query.shape[:-1], **sizes)
    return jnp.concatenate(mixing.mix(query, hard, draws), -2)


def mochi(
  info: RunInfo,
  *,
  num_mixed: int = 0,
  num_query_mixed: int = 0,
  num_hard: int = 1024,
  start_epoch: float = 10.0,
) -> Mochi | None:
  """MoCHi, Kalantidis et al., https://arxiv.org/abs/2010.01028: mixtures of hard negatives.

  Args:
    num_mixed: s, mixtures of two hard negatives; 1024 in the paper, 0 = none.
    num_query_mixed: s', mixtures of the query and a hard negative; 128 in the paper, 0 = none.
    num_hard: N, the hardest negatives to mix from; 1024 (paper).
    start_epoch: epochs without it at the start; 10 on ImageNet-100, 15 on ImageNet (paper).
  """
  if min(num_mixed, num_query_mixed) < 0:
    raise UserError('plugins.mochi.num_mixed and num_query_mixed count negatives: set them >= 0')
  if not num_mixed and not num_query_mixed:
    return None
  needed = 2 if num_mixed else 1
  if num_hard < needed:
    raise UserError(f'plugins.mochi.num_hard={num_hard} leaves nothing to mix: set it >= {needed}')
  start = _start_step('mochi', start_epoch, info)
  return Mochi(num_hard, num_mixed, num_query_mixed, start)


def _start_step(name: str, start_epoch: float, info: RunInfo) -> float:
  start = start_epoch * info.steps_per_epoch
  if not 0 <= start < info.total_steps:
    raise UserError(
      f'plugins.{name}.start_epoch={start_epoch} is not within the run '
      f'({info.total_steps / info.steps_per_epoch:g} epochs): lower it'
    )
  return start
