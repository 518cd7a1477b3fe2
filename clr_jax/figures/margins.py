"""Gradients of InfoNCE and the factors of margins: figures 1 and 2 of the margins paper.

https://arxiv.org/abs/2306.11526. The gradients are those of the library's loss, by
differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Lt, MinLen

from clr_jax.core.bounds import NonNegative, Temperature
from clr_jax.core.types import Array
from clr_jax.figures.drawing.data import Axis, Block, FigureData, Figures, Line, Panel, Table
from clr_jax.losses.margin import MarginFactors, margin_factors
from clr_jax.losses.scores import Scores, infonce
from clr_jax.rundir.reader import Run

Angle = Annotated[float, Gt(0), Lt(180)]
Chance = Annotated[float, Gt(0), Lt(1)]

_POINTS = 119  # of a line
_DEGREES = np.linspace(1.5, 178.5, _POINTS)
_CHANCES = np.linspace(0.01, 0.99, _POINTS)
_SIZE = (4.0, 3.2)
_ANGLE = Axis('angle θ of the positive pair, degrees', limits=(0, 180))
_CHANCE = Axis('probability p of the positive', limits=(0, 1))
_SLOPE = Axis('|∂loss/∂θ|, 1/rad')


def margins(
  runs: Sequence[Run] = (),
  *,
  angular: Annotated[tuple[Annotated[float, Ge(0), Lt(math.pi)], ...], MinLen(1)] = (0.1, 0.3, 0.5),
  subtractive: tuple[NonNegative, ...] = (0.4,),
  temperature: Temperature = 0.25,
  angles: Annotated[tuple[Angle, ...], MinLen(1)] = (10.0, 30.0, 60.0, 90.0),
  probabilities: Annotated[tuple[Chance, ...], MinLen(1)] = (0.1, 0.5, 0.9),
) -> Figures:
  """Draws two figures that need no run: gradient and factors.

  gradient: magnitude of the gradient of InfoNCE with respect to an angle, without margins (eq. 10),
  against the angle and against the probability of the positive. factors: the two factors by which
  margins multiply it (eq. 12) and their product, which is that of the positive's gradient.

  Args:
    runs: not used.
    angular: margins m1 in radians, a line for each.
    subtractive: margins m2 in units of the cosine, a line for each.
    temperature: temperature of the loss; 0.25 in the paper's small data sets.
    angles: angles in degrees, a line for each against the probability; the factors use the last.
    probabilities: probabilities, a line for each against the angle; the factors use the last.
  """
  del runs
  gradient = _gradient_panels(angles, probabilities, temperature)
  pairs = {f'm1 = {m:g}': (m, 0.0) for m in angular} | {
    f'm2 = {m:g}': (0.0, m) for m in subtractive
  }
  factors = _factor_panels(pairs, angles[-1], probabilities[-1], temperature)
  return Figures([_figure('gradient', gradient, 3), _figure('factors', factors, 2)])


def _figure(name: str, panels: Sequence[Panel], columns: int) -> FigureData:
  rows = [
    (panel.title, line.name, x, y)
    for panel in panels
    for line in panel.marks_of(Line)
    for x, y in zip(line.x, line.y, strict=True)
  ]
  table = Table(('panel', 'line', 'x', 'value'), rows)
  return FigureData(name, [Block(panels, columns, _SIZE)], {'': table}, legend='panels')


def _lines(values: dict[str, np.ndarray], x: np.ndarray) -> list[Line]:
  return [Line(name, i, x, y, dots=False) for i, (name, y) in enumerate(values.items())]


# ---------------------------------------------------------------- figure 1
def slopes(angle: Array, probability: Array, temperature: float) -> tuple[Array, Array]:
  """Gradients of InfoNCE with respect to the angles of the positive and of one negative.

  Args:
    angle: [N], angles in radians of the positive and, equal to it, of the negative.
    probability: [N] of the positive; further negatives without a gradient of their own make it up.
    temperature: temperature of the loss.

  Returns:
    ([N], [N]): the gradient for the positive, and for a negative with the probability p.
  """

  def positive(theta: Array, p: Array) -> Array:
    score = jnp.cos(theta)
    others = jax.lax.stop_gradient(score) - temperature * (jnp.log(p) - jnp.log1p(-p))
    return infonce(Scores(score, others[None]), temperature=temperature)

  def negative(theta: Array, p: Array) -> Array:
    score = jnp.cos(theta)  # the roles are exchanged: the positive has 1 - p
    key = jax.lax.stop_gradient(score) - temperature * (jnp.log(p) - jnp.log1p(-p))
    return infonce(Scores(key, score[None]), temperature=temperature)

  return jax.vmap(jax.grad(positive))(angle, probability), jax.vmap(jax.grad(negative))(
    angle, probability
  )


def _gradient_panels(
  angles: Sequence[float], probabilities: Sequence[float], temperature: float
) -> list[Panel]:
  def against(x: np.ndarray, make: Callable[[float], tuple[Array, Array]], which: int, names):
    found = {name: np.abs(np.asarray(make(value)[which])) for name, value in names.items()}
    return _lines(found, x)

  theta, p = jnp.asarray(np.radians(_DEGREES), jnp.float32), jnp.asarray(_CHANCES, jnp.float32)
  at_p = lambda value: slopes(theta, jnp.full_like(theta, value), temperature)  # noqa: E731
  at_angle = lambda value: slopes(jnp.full_like(p, math.radians(value)), p, temperature)  # noqa: E731
  chances = {f'p = {value:g}': value for value in probabilities}
  degrees = {f'θ = {value:g}°': value for value in angles}
  note = f'T = {temperature:g}'
  negative = Axis('probability p of the negative', limits=(0, 1))
  return [
    Panel('Positive, by angle', _ANGLE, _SLOPE, against(_DEGREES, at_p, 0, chances), note),
    Panel(
      'Positive, by probability', _CHANCE, _SLOPE, against(_CHANCES, at_angle, 0, degrees), note
    ),
    Panel(
      'Negative, by probability', negative, _SLOPE, against(_CHANCES, at_angle, 1, degrees), note
    ),
  ]


# ---------------------------------------------------------------- figure 2
def _factor_panels(
  pairs: dict[str, tuple[float, float]], angle: float, probability: float, temperature: float
) -> list[Panel]:
  theta, p = np.radians(_DEGREES), _CHANCES

  def found(theta, p, take: Callable[[MarginFactors], Array]) -> dict[str, np.ndarray]:
    theta, p = (jnp.asarray(x, jnp.float32) for x in np.broadcast_arrays(theta, p))
    return {
      name: np.asarray(
        take(margin_factors(theta, jnp.log(p), temperature=temperature, angular=m1, subtractive=m2))
      )
      for name, (m1, m2) in pairs.items()
    }

  at_p, at_angle = f'p = {probability:g}', f'θ = {angle:g}°'
  wide, y = Axis('factor', log=True), Axis('factor')
  sine = found(theta, probability, lambda f: f.sine)
  by_angle = found(theta, probability, lambda f: f.attenuation)
  by_chance = found(math.radians(angle), p, lambda f: f.attenuation)
  product = found(theta, probability, lambda f: f.positive)
  beyond = 'negative, and not drawn, for θ + m1 > 180°'
  return [
    Panel('sin(θ + m1) / sin θ', _ANGLE, wide, _lines(sine, _DEGREES), beyond),
    Panel('(1 - p with margin) / (1 - p), by angle', _ANGLE, y, _lines(by_angle, _DEGREES), at_p),
    Panel(
      '(1 - p with margin) / (1 - p), by probability',
      _CHANCE,
      y,
      _lines(by_chance, _CHANCES),
      at_angle,
    ),
    Panel('Product: the gradient of the positive', _ANGLE, wide, _lines(product, _DEGREES), at_p),
  ]
