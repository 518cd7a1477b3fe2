"""Gradients of the scores, scaled; the loss value stays: https://arxiv.org/abs/2306.11526."""

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
  """Settings made by `gradient_scaling`."""

  emphasis: float
  curvature: float | None
  attenuation: losses.Attenuation
  strength: float
  order = 40

  def check(self, facts: Facts) -> Facts:
    """Emphasis needs negatives, attenuation a softmax, a curve an angle."""
    if self.emphasis != 1 and not facts.negatives:
      raise UserError(
        f'{facts.method} has no negatives, so that an emphasis of positives only scales the '
        f'learning rate: set plugins.gradient_scaling.emphasis to 1'
      )
    if self.attenuation != 'none' and not facts.softmax:
      raise UserError(
        f'{facts.method} has no softmax over positive and negatives whose 1 - p an attenuation '
        f"could undo: set plugins.gradient_scaling.attenuation to 'none'"
      )
    if self.curvature is not None and facts.no_angle:
      raise UserError(f'{facts.no_angle}, or plugins.gradient_scaling.curvature to None')
    return facts

  def scale_gradients(self, scores: Scores, plain: Scores, temperature: float | Array) -> Scores:
    """`losses.scale_scores`."""
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
    emphasis: s, of the positive's gradient; MoCo v3 on CIFAR-10 20, SimCLR 1.125 (paper), 1 = none.
    curvature: c of 1 - (theta / pi)^c; with it the paper's s is 20 for MoCo v3 and 2.5 for SimCLR,
      c .7 for both on CIFAR-10; BYOL has c 1; None = none.
    attenuation: 'type1' undoes the vanishing factor 1 - p of positive and negatives, 'type2' that
      of the positive; 'none'.
    strength: a of the attenuation; 1 - exp(-m2 / T) is a subtractive margin's.
  """
  del info
  if emphasis == 1 and curvature is None and attenuation == 'none':
    return None
  return GradientScaling(emphasis, curvature, attenuation, strength)
