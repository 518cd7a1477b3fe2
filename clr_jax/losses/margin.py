"""Margins and value-preserving gradient scaling for InfoNCE, after the margins paper.

The paper (https://arxiv.org/abs/2306.11526) splits the effect of a margin on the gradient into
positive emphasis, a curve over the positive's angle, and attenuation as p -> 1. `add_margin` is the
margin, `scale_scores` its parts. With both, the gradient through the margin is scaled by weights
that are computed without the margin.
No gradient passes through arccos: everything is a function of the cosine.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from clr_jax.core.names import check_name
from clr_jax.core.types import Array
from clr_jax.losses.scores import Scores, log_p_positive
from clr_jax.ops.similarity import at_least_float32

Beyond = Literal['raw', 'arcface', 'clip']
Attenuation = Literal['none', 'type1', 'type2']
MIN_DENOMINATOR = 1e-6  # 1 / (1 - p) is unbounded, although the scaled gradient is bounded


def _root(square: Array) -> Array:
  """sqrt, with value and gradient 0 at 0."""
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def sine(a: Array, b: Array) -> Array:
  """Sine of the angle between unit rows [..., D] -> [...], as |a - b| |a + b| / 2.

  sqrt(1 - cosine^2) is off by 3e-2 in float32 at 1e-3 rad, this by at most 1e-4. The
  gradient at angles 0 and pi, where it has no direction, is 0.
  """
  a, b = at_least_float32(a), at_least_float32(b)
  return _root(jnp.sum((a - b) ** 2, -1) * jnp.sum((a + b) ** 2, -1)) / 2


def add_margin(
  cosine: Array,
  sine: Array,
  *,
  angular: float | Array,
  subtractive: float | Array,
  beyond: Beyond = 'raw',
) -> Array:
  """cos(theta + m1) - m2 of positives, the margins paper (arXiv 2306.11526, eq. 7).

  Args:
    cosine: [...], cos(theta).
    sine: [...], sin(theta) of the same angles, from `sine`: the gradient passes through both.
    angular: m1 in radians, [0, pi); in the paper's tables 0 to 0.6.
    subtractive: m2 in units of the cosine, >= 0; inside the division by the temperature; in the
      paper's tables 0.2 to 0.8.
    beyond: rule for theta + m1 > pi, which the paper leaves open: 'raw' keeps the formula, whose
      gradient is repulsive there; 'arcface' takes cos(theta) - m1 sin(m1), with the gradient of
      the plain cosine; 'clip' caps the angle at pi, without gradient.

  Returns:
    [...], finite with a finite gradient at theta = 0 and pi.

  Raises:
    UserError: unknown `beyond`.
  """
  check_name(get_args(Beyond), beyond, 'beyond')
  cos_m, sin_m = jnp.cos(angular), jnp.sin(angular)
  moved = cosine * cos_m - sine * sin_m
  if beyond != 'raw':
    # sin(theta + m1) < 0; comparing cosines would also select -1 - 1e-7 at m1 = 0.
    past = sine * cos_m + cosine * sin_m < 0
    moved = jnp.where(past, cosine - angular * sin_m if beyond == 'arcface' else -1.0, moved)
  return moved - subtractive


class MarginFactors(NamedTuple):
  """Factors of the gradient with respect to the angles, from `margin_factors`.

  Attributes:
    sine: [...] sin(theta + m1) / sin(theta), of the positive.
    attenuation: [...] (1 - p~) / (1 - p), of the positive and of all negatives.
  """

  sine: Array
  attenuation: Array

  @property
  def positive(self) -> Array:
    """[...], the factor of the positive's gradient."""
    return self.sine * self.attenuation


def margin_factors(
  angle: Array,
  log_p_positive: Array,
  *,
  temperature: float | Array,
  angular: float | Array,
  subtractive: float | Array,
) -> MarginFactors:
  """Factors by which margins multiply the gradient of InfoNCE, the margins paper, eq. 12.

  With p~ for the probability of the positive with margins, d/dtheta is multiplied by sin(theta +
  m1) / sin(theta) and (1 - p~) / (1 - p); for each negative p~_n / p_n, which is the same number.

  Args:
    angle: [...], the positive's angle theta in radians, in (0, pi).
    log_p_positive: [...], log p of the softmax without margins, below 0.
    temperature: temperature of the loss, > 0.
    angular, subtractive: m1 and m2, as in `add_margin` with beyond='raw'.
  """
  angle, log_p = at_least_float32(angle), at_least_float32(log_p_positive)
  odds = log_p - jnp.log(-jnp.expm1(log_p))  # log p / (1 - p)
  moved = odds + (jnp.cos(angle + angular) - subtractive - jnp.cos(angle)) / temperature
  return MarginFactors(
    sine=jnp.sin(angle + angular) / jnp.sin(angle),
    attenuation=jnp.exp(jax.nn.log_sigmoid(-moved) - jax.nn.log_sigmoid(-odds)),
  )


def scale_gradient(cosine: Array, weight: float | Array) -> Array:
  """Returns `cosine` bit for bit, with its gradient times `weight` (a constant; eq. 17).

  Equal to the paper's theta <- w theta + sg((1 - w) theta), without computing the angle.
  """
  fixed = jax.lax.stop_gradient(cosine)
  return fixed + jax.lax.stop_gradient(weight) * (cosine - fixed)


def curve(cosine: Array, curvature: float | Array | None) -> Array:
  """f_c(theta) = 1 - |theta / pi|^c of positives (eq. 18 as reconstructed), without gradient.

  Args:
    cosine: [...], clipped to [-1, 1].
    curvature: c > 0: < 1 convex, 1 linear, > 1 concave (the paper: 0.7 to 5); None or inf: 1.

  Returns:
    [...] in [0, 1], falling from 1 at theta = 0 to 0 at pi.
  """
  cosine = jax.lax.stop_gradient(cosine)
  if curvature is None:
    return jnp.ones_like(cosine)
  share = jnp.arccos(jnp.clip(cosine, -1.0, 1.0)) / jnp.pi
  return jnp.where(jnp.isinf(curvature), 1.0, 1 - share**curvature)


def attenuation(log_p_positive: Array, strength: float | Array) -> Array:
  """1 / (1 - a p) of the positive's probability p (eq. 20), at most 1e6, without gradient.

  Args:
    log_p_positive: [...], log p of the softmax without margins.
    strength: a in [0, 1]; the paper: 0, 0.25, 1. 1 - exp(-m2 / temperature) gives the gradient of a
      subtractive margin m2.
  """
  miss = -jnp.expm1(jax.lax.stop_gradient(log_p_positive))  # 1 - p, also where p rounds to 1
  return 1 / jnp.maximum((1 - strength) + strength * miss, MIN_DENOMINATOR)


def _attenuation_of(scores: Scores, temperature: float | Array, strength: float | Array) -> Array:
  return attenuation(log_p_positive(scores, temperature=temperature), strength)


def scale_scores(
  scores: Scores,
  *,
  temperature: float | Array,
  emphasis: float | Array = 1.0,
  curvature: float | Array | None = None,
  attenuation: Attenuation = 'none',
  strength: float | Array = 1.0,
  plain: Scores | None = None,
) -> Scores:
  """The same scores with scaled gradients, the margins paper (arXiv 2306.11526, eq. 16 to 21).

  The gradient to the positive is multiplied by emphasis * f_c(theta), and with attenuation by
  1 / (1 - a p), p from the softmax of the scores without margins. Defaults: no scaling.

  Args:
    scores: cosines.
    temperature: temperature of the loss, > 0.
    emphasis: factor s; the paper: 10 to 40 for MoCo v3, 1.06 to 2.5 for SimCLR.
    curvature: exponent c of `curve`.
    attenuation: 'none'; 'type1', for an anchor's positive and negatives; 'type2', for its positive.
    strength: factor a of the attenuation.
    plain: the scores without margins, for theta and p; None if `scores` have no margins.

  Raises:
    UserError: unknown `attenuation`.
  """
  check_name(get_args(Attenuation), attenuation, 'attenuation')
  plain = scores if plain is None else plain
  weight = emphasis * curve(plain.positive, curvature)
  negative = scores.negative
  if attenuation != 'none':
    factor = _attenuation_of(plain, temperature, strength)
    weight = weight * factor
    if attenuation == 'type1':
      negative = scale_gradient(negative, factor[..., None])
  return Scores(scale_gradient(scores.positive, weight), negative, scores.where)
