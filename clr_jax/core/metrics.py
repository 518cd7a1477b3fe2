"""Metrics with their reduction over the steps of a row of the log."""

from __future__ import annotations

from typing import Any, Self

import flax.struct
import jax
import numpy as np


class Metric(flax.struct.PyTreeNode):
  """A quantity measured in some training steps; the subclass defines its value in a row.

  Attributes:
    total: [...] value in one step, or the sum over several; 0 where it was not measured.
    count: [] number of steps that measured it; 0 or 1 for one step.
  """

  total: Any
  count: Any

  @classmethod
  def empty(cls) -> Self:
    """The metric of no steps."""
    return cls(np.float64(0), np.float64(0))

  def add(self, steps: Metric) -> Self:
    """Adds further steps, stacked along the first axis of `steps`; on the host.

    Adds one step at a time in float64, so that the bits do not depend on the grouping of steps.
    """
    total = _add_in_order(self.total, steps.total)
    return self.replace(total=total, count=_add_in_order(self.count, steps.count))

  def row(self) -> float | list[float] | None:
    """Value for a row, a number or a list; None if no step measured it."""
    raise NotImplementedError


class Mean(Metric):
  """Mean over the steps that measured it."""

  def row(self) -> float | list[float] | None:
    return np.divide(self.total, self.count).tolist() if self.count else None


class Sum(Metric):
  """Sum over the steps, such as the counts of a histogram."""

  def row(self) -> float | list[float] | None:
    return np.asarray(self.total).tolist() if self.count else None


# Plain arrays are means over all steps.
Metrics = dict[str, jax.Array | Metric]


def of_steps(values: Any) -> Metric:
  """Converts values of several steps [steps, ...], or a plain array, to a metric."""
  return values if isinstance(values, Metric) else Mean(values, np.ones(len(values)))


def _add_in_order(total: Any, values: Any) -> Any:
  values = np.asarray(values, np.float64)
  start = np.broadcast_to(np.asarray(total), values.shape[1:])
  with np.errstate(invalid='ignore'):  # inf - inf
    return np.add.accumulate([start, *values])[-1]
