"""Reduces the metrics of the steps between two log rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import jax

from clr_jax.core.metrics import Mean, Metric, Metrics, Sum, of_steps

_REDUCTIONS: dict[str, type[Metric]] = {'mean': Mean, 'sum': Sum}
_NAMES = {kind: name for name, kind in _REDUCTIONS.items()}


class MetricAccumulator:
  """Reduced metrics of the steps since the last row on the grid of `log_every`.

  Checkpoints contain it, and it adds one step after the other in float64 (`Metric.add`), so that a
  row does not depend on interruptions.
  """

  def __init__(self):
    self._sums: dict[str, Metric] = {}
    self._pending: list[Metrics] = []

  @classmethod
  def restored(cls, stored: Mapping[str, Any]) -> Self:
    """Restores the accumulator from `stored`."""
    accumulator = cls()
    for name, (kind, total, count) in stored.items():
      accumulator._sums[name] = _REDUCTIONS[kind](total, count)
    return accumulator

  def copy(self) -> Self:
    """Makes an independent copy."""
    copied = type(self)()
    copied._sums, copied._pending = dict(self._sums), list(self._pending)
    return copied

  def stored(self) -> dict[str, Any]:
    """{name: (reduction, total, count)} for a checkpoint."""
    self._fetch()
    return {k: (_NAMES[type(m)], m.total, m.count) for k, m in self._sums.items()}

  def add(self, metrics: Metrics) -> None:
    """Adds metrics [steps, ...] of the next steps, which stay on the device for now."""
    self._pending.append(metrics)

  def row(self) -> dict[str, Any]:
    """Values of the metrics that some step measured, numbers or lists; {} without steps."""
    self._fetch()
    rows = {name: metric.row() for name, metric in self._sums.items()}
    return {name: value for name, value in rows.items() if value is not None}

  def clear(self) -> None:
    """Starts the next row."""
    self._sums.clear()
    self._pending.clear()

  def _fetch(self) -> None:
    """Adds pending metrics, in one transfer from the device."""
    for block in jax.device_get(self._pending):
      for name, values in block.items():
        steps = of_steps(values)
        self._sums[name] = self._sums.get(name, steps.empty()).add(steps)
    self._pending.clear()
