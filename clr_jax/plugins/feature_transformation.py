"""Feature transformation, harder positives and new negatives: https://arxiv.org/abs/2108.02982."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np

from clr_jax.core.bounds import Epochs, Positive
from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Array, RunInfo
from clr_jax.losses import feature_transformation as losses
from clr_jax.losses.scores import Scores
from clr_jax.ops.random import Stream, stream
from clr_jax.plugins.pipeline import Comparison, Facts, Plugin, start_step


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureTransformation(Plugin):
  """A configured `feature_transformation`."""

  positive: Literal['none', losses.Scope]
  negative: Literal['none', losses.Scope]
  positive_quantiles: np.ndarray
  negative_quantiles: np.ndarray
  union: bool
  postnorm: bool
  start: float
  order = 10

  def check(self, facts: Facts) -> Facts:
    """Rejects interpolation without negatives; records that an extrapolated pair has no angle."""
    if self.negative != 'none' and not facts.negatives:
      raise UserError(
        f'{facts.method} has no negatives to mix: set plugins.feature_transformation.negative to '
        f"'none'"
      )
    if self.positive == 'none' or self.postnorm:
      return facts
    return facts._replace(
      no_angle='an extrapolated pair has no angle because it is not of unit length: set '
      'plugins.feature_transformation.postnorm=True'
    )

  def move_pair(self, rng: Array, query: Array, key: Array, step: Array) -> tuple[Array, Array]:
    """Applies `losses.extrapolate` to [B, ..., D]; the views of an image share their draw."""
    if self.positive == 'none':
      return query, key
    query, key = jnp.broadcast_arrays(query, key)
    lam = losses.draw_positive(
      rng, (len(query), query.shape[-1]), scope=self.positive, quantiles=self.positive_quantiles
    )
    lam = lam.reshape(lam.shape[0], *[1] * (query.ndim - 2), lam.shape[1]).astype(query.dtype)
    started = step >= self.start
    lam = jnp.where(started, lam, 1.0)
    return losses.extrapolate(query, key, lam, postnorm=self.postnorm)

  def change_negatives(self, scores: Scores, compared: Comparison) -> Scores:
    """Scores against interpolated rows, appended to the plain ones with `union`."""
    if self.negative == 'none':
      return scores
    rows, own = compared.rows, compared.own
    places = len(rows) - own
    lam, partner = losses.draw_negative(
      stream(compared.rng, Stream.MOVED_NEGATIVES),
      (places, rows.shape[-1]),
      scope=self.negative,
      quantiles=self.negative_quantiles,
    )
    started = compared.step >= self.start
    lam = jnp.where(started, lam.astype(rows.dtype), 1.0)
    moved = losses.interpolated_scores(compared.query, rows, lam, partner, own=own)
    if not self.union:
      return Scores(scores.positive, moved)
    plain = losses.plain_scores(compared.query, rows, own=own)
    where = started | (jnp.arange(2 * places) < places)
    return Scores(
      scores.positive,
      jnp.concatenate([plain, moved], -1),
      jnp.broadcast_to(where, (*plain.shape[:-1], 2 * places)),
    )


def feature_transformation(
  info: RunInfo,
  *,
  positive: Literal['none', losses.Scope] = 'none',
  negative: Literal['none', losses.Scope] = 'none',
  positive_alpha: Annotated[Positive, OnlyWith('positive')] = 2.0,
  negative_alpha: Annotated[Positive, OnlyWith('negative')] = 1.6,
  distribution: Annotated[losses.Distribution, OnlyWith('positive', 'negative')] = 'beta',
  union: Annotated[bool, OnlyWith('negative')] = False,
  postnorm: Annotated[bool, OnlyWith('positive')] = False,
  start_epoch: Annotated[Epochs, OnlyWith('positive', 'negative')] = 0.0,
) -> FeatureTransformation | None:
  """Extrapolates positives, interpolates negatives (Zhu et al.); these two switch it on.

  Args:
    positive: scope of one draw of the positives' weight: 'none', 'batch' (the published commands),
      'vector' (each dimension, the same for all rows), 'row', or 'dim' (each row and dimension).
    negative: the same for the negatives.
    positive_alpha: a of Beta(a, a) for the positives; 2.0 (code, best of the paper's table).
    negative_alpha: a of Beta(a, a) for the negatives; 1.6 (code, best of the paper's table).
    distribution: 'beta' or 'uniform' (an option of the code).
    union: add the interpolated negatives to the plain ones instead of replacing them.
    postnorm: re-normalize the extrapolated pair; False in the code.
    start_epoch: first epoch with the plug-in; 0 (code and paper: the earlier the better).

  Raises:
    UserError: a start after the end of the run.
  """
  if positive == negative == 'none':
    return None
  return FeatureTransformation(
    positive,
    negative,
    losses.beta_quantiles(positive_alpha, distribution),
    losses.beta_quantiles(negative_alpha, distribution),
    union,
    postnorm,
    start_step('feature_transformation', start_epoch, info),
  )
