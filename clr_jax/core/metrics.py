"""Metrics that carry their reduction: how the values of several steps become one row of the log."""

from __future__ import annotations

from typing import Any, Self

import flax.struct
import jax
import numpy as np


class Metric(flax.struct.PyTreeNode):
  """A quantity that some training steps measure; the subclass says what a row shows of it.

  Attributes:
    total: [...] value in one step, or the sum over several; 0 where it was not measured.
    count: [] number of steps that measured it; 0 or 1 for one step.
  """

  total: Any
  count: Any

  @classmethod
  def empty(cls) -> Self:
    """No step yet."""
    return cls(np.float64(0), np.float64(0))

  def add(self, steps: Metric) -> Self:
    """This one and further steps, stacked along the first axis of `steps`; on the host.

    Adds one step after the other in float64: the bits do not depend on how steps were grouped.
    """
    total = _add_in_order(self.total, steps.total)
    return self.replace(total=total, count=_add_in_order(self.count, steps.count))

  def row(self) -> float | list[float] | None:
    """A number or a list; None if no step measured it."""
    raise NotImplementedError


class Mean(Metric):
  """A row shows the mean over the steps that measured it."""

  def row(self) -> float | list[float] | None:
    return np.divide(self.total, self.count).tolist() if self.count else None


class Sum(Metric):
  """A row shows the sum over the steps, such as that of a histogram's counts."""

  def row(self) -> float | list[float] | None:
    return np.asarray(self.total).tolist() if self.count else None


# Plain arrays are means over all steps.
Metrics = dict[str, jax.Array | Metric]


def of_steps(values: Any) -> Metric:
  """The metric of several steps [steps, ...], also of a plain array."""
  return values if isinstance(values, Metric) else Mean(values, np.ones(len(values)))


def _add_in_order(total: Any, values: Any) -> Any:
  values = np.asarray(values, np.float64)
  start = np.broadcast_to(np.asarray(total), values.shape[1:])
  with np.errstate(invalid='ignore'):  # inf - inf
    return np.add.accumulate([start, *values])[-1]
