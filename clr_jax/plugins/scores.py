"""Plug-ins that act on scores and their gradients: see `clr_jax.plugins.pipeline`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.types import Array, RunInfo
from clr_jax.losses import margin as margins


class Margin(NamedTuple):
  """Settings made by `margin`."""

  angular: float
  subtractive: float
  beyond: str

  def apply(self, cosine: Array, query: Array, key: Array) -> Array:
    """`margins.add_margin` to the cosines of unit rows."""
    if not self.angular:
      return cosine - self.subtractive
    return margins.add_margin(
      cosine,
      margins.sine(query, key),
      angular=self.angular,
      subtractive=self.subtractive,
      beyond=self.beyond,
    )


def margin(
  info: RunInfo, *, angular: float = 0.0, subtractive: float = 0.0, beyond: str = 'raw'
) -> Margin | None:
  """Margins of the positive, cos(theta + m1) - m2: https://arxiv.org/abs/2306.11526, eq. 7.

  Args:
    angular: m1 in radians; MoCo v3 on CIFAR-10 0.1, SimCLR 0.5 (paper), 0 = none.
    subtractive: m2 in units of the cosine; 0.4 for both (paper), 0 = none.
    beyond: for theta + m1 > pi: 'raw', 'arcface' or 'clip' (see `losses.margin.add_margin`).
  """
  del info
  check_name(margins.BEYOND, beyond, 'plugins.margin.beyond')
  if not 0 <= angular < np.pi:
    raise UserError(f'plugins.margin.angular={angular} is an angle in radians, in [0, pi)')
  if not 0 <= subtractive < float('inf'):
    raise UserError(f'plugins.margin.subtractive={subtractive} must be finite and not negative')
  if beyond != 'raw' and not angular:
    raise UserError('plugins.margin.beyond is of an angular margin: set plugins.margin.angular too')
  return Margin(angular, subtractive, beyond) if angular or subtractive else None


class GradientScaling(NamedTuple):
  """Settings made by `gradient_scaling`."""

  emphasis: float
  curvature: float | None
  attenuation: str
  strength: float

  def weigh_pair(self, score: Array, cosine: Array) -> Array:
    """Positives without negatives: emphasis and curve only; `cosine` is without margin."""
    weight = self.emphasis * margins.curve(cosine, self.curvature)
    return margins.scale_gradient(score, weight)


def gradient_scaling(
  info: RunInfo,
  *,
  emphasis: float = 1.0,
  curvature: float | None = None,
  attenuation: str = 'none',
  strength: float = 1.0,
) -> GradientScaling | None:
  """Scales gradients and leaves the loss value: https://arxiv.org/abs/2306.11526, eq. 16 to 21.

  Args:
    emphasis: s, of the positive's gradient; MoCo v3 on CIFAR-10 20, SimCLR 1.125 (paper), 1 = none.
    curvature: c of 1 - (theta / pi)^c; with it the paper's s is 20 for MoCo v3 and 2.5 for SimCLR,
      c .7 for both on CIFAR-10; BYOL has c 1; None = none.
    attenuation: 'type1' undoes the vanishing factor 1 - p of positive and negatives, 'type2' that
      of the positive; 'none'.
    strength: a of the attenuation, 0 to 1; 1 - exp(-m2 / T) is a subtractive margin's.
  """
  del info
  check_name(margins.ATTENUATIONS, attenuation, 'plugins.gradient_scaling.attenuation')
  if not 0 <= emphasis < float('inf'):
    raise UserError(f'plugins.gradient_scaling.emphasis={emphasis} must be finite, not negative')
  if curvature is not None and not curvature > 0:
    raise UserError(f'plugins.gradient_scaling.curvature={curvature} must be positive')
  if not 0 <= strength <= 1:
    raise UserError(f'plugins.gradient_scaling.strength={strength} must lie in [0, 1]')
  if strength != 1 and attenuation == 'none':
    raise UserError(
      'plugins.gradient_scaling.strength is of an attenuation: set '
      "plugins.gradient_scaling.attenuation to 'type1' or 'type2' too"
    )
  if emphasis == 1 and curvature is None and attenuation == 'none':
    return None
  return GradientScaling(emphasis, curvature, attenuation, strength)
