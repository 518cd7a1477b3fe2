"""Margins of the positive pair, cos(theta + m1) - m2: https://arxiv.org/abs/2306.11526."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from annotated_types import Ge, Lt

from clr_jax.core.bounds import NonNegative
from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Array, RunInfo
from clr_jax.losses import margin as losses
from clr_jax.plugins.pipeline import Facts, Plugin


@dataclasses.dataclass(frozen=True)
class Margin(Plugin):
  """A configured `margin`."""

  angular: float
  subtractive: float
  beyond: losses.Beyond
  order = 30

  def check(self, facts: Facts) -> Facts:
    """Rejects a subtractive margin without softmax and an angular one without angle."""
    if self.subtractive and not facts.softmax:
      raise UserError(
        f'in {facts.method} a subtractive margin only shifts the loss value: set '
        f'plugins.margin.subtractive to 0'
      )
    if self.angular and facts.no_angle:
      raise UserError(f'{facts.no_angle}, or plugins.margin.angular to 0')
    return facts

  def change_positive(self, positive: Array, query: Array, key: Array) -> Array:
    """Applies `losses.add_margin` to the cosines of unit rows."""
    if not self.angular:
      return positive - self.subtractive
    return losses.add_margin(
      positive,
      losses.sine(query, key),
      angular=self.angular,
      subtractive=self.subtractive,
      beyond=self.beyond,
    )


def margin(
  info: RunInfo,
  *,
  angular: Annotated[float, Ge(0), Lt(math.pi)] = 0.0,
  subtractive: NonNegative = 0.0,
  beyond: Annotated[losses.Beyond, OnlyWith('angular')] = 'raw',
) -> Margin | None:
  """Adds margins to the positive, eq. 7 of the paper. `angular` or `subtractive` switch them on.

  Args:
    angular: margin m1 in radians; on CIFAR-10 0.1 for MoCo v3, 0.5 for SimCLR (paper); 0 = none.
    subtractive: margin m2 in units of the cosine; 0.4 for both (paper), 0 = none.
    beyond: rule for theta + m1 > pi: 'raw', 'arcface' or 'clip' (see `losses.margin.add_margin`).
  """
  del info
  return Margin(angular, subtractive, beyond) if angular or subtractive else None
