"""Scaled gradients of the scores at an unchanged loss value: https://arxiv.org/abs/2306.11526."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from clr_jax.core.bounds import NonNegative, Positive, Probability
from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Array, RunInfo
from clr_jax.losses import margin as losses
from clr_jax.losses.scores import Scores
from clr_jax.plugins.pipeline import Facts, Plugin


@dataclasses.dataclass(frozen=True)
class GradientScaling(Plugin):
  """A configured `gradient_scaling`."""

  emphasis: float
  curvature: float | None
  attenuation: losses.Attenuation
  strength: float
  order = 40

  def check(self, facts: Facts) -> Facts:
    """Rejects emphasis without negatives, attenuation without softmax, a curve without angle."""
    if self.emphasis != 1 and not facts.negatives:
      raise UserError(
        f'{facts.method} has no negatives, so emphasizing positives only scales the '
        f'learning rate: set plugins.gradient_scaling.emphasis to 1'
      )
    if self.attenuation != 'none' and not facts.softmax:
      raise UserError(
        f'{facts.method} has no softmax over positives and negatives, on which attenuation acts: '
        f"set plugins.gradient_scaling.attenuation to 'none'"
      )
    if self.curvature is not None and facts.no_angle:
      raise UserError(f'{facts.no_angle}, or plugins.gradient_scaling.curvature to None')
    return facts

  def scale_gradients(self, scores: Scores, plain: Scores, temperature: float | Array) -> Scores:
    """Applies `losses.scale_scores`."""
    return losses.scale_scores(
      scores,
      plain=plain,
      temperature=temperature,
      emphasis=self.emphasis,
      curvature=self.curvature,
      attenuation=self.attenuation,
      strength=self.strength,
    )


def gradient_scaling(
  info: RunInfo,
  *,
  emphasis: NonNegative = 1.0,
  curvature: Positive | None = None,
  attenuation: losses.Attenuation = 'none',
  strength: Annotated[Probability, OnlyWith('attenuation')] = 1.0,
) -> GradientScaling | None:
  """Scales gradients, eq. 16 to 21. `emphasis`, `curvature` or `attenuation` switch it on.

  Args:
    emphasis: factor s of the positive's gradient; on CIFAR-10 20 for MoCo v3, 1.125 for SimCLR
      (paper); 1 = none.
    curvature: exponent c of 1 - (theta / pi)^c; None = none. On CIFAR-10 the paper has c = .7 for
      MoCo v3 (with s = 20) and SimCLR (with s = 2.5), c = 1 for BYOL.
    attenuation: 'type1' undoes the vanishing factor 1 - p of positive and negatives, 'type2' that
      of the positive; 'none'.
    strength: factor a of the attenuation; 1 - exp(-m2 / T) corresponds to a subtractive margin m2.
  """
  del info
  if emphasis == 1 and curvature is None and attenuation == 'none':
    return None
  return GradientScaling(emphasis, curvature, attenuation, strength)
