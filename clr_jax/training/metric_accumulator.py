"""Means of metrics over the steps between two log rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from clr_jax.core.types import Metrics
from clr_jax.wrappers import telemetry as _telemetry


class Window:
  """Means of the steps' metrics since the last row on the grid of `log_every`.

  The sums are of float64, in the order of the steps, and a checkpoint carries them: a row does not
  depend on where its steps were interrupted. Metrics of telemetry are means over the steps that
  measured it, absent without one; of its counts the row has the sums, in a list.
  """

  def __init__(self, sums: Mapping[str, float] | None = None, count: int = 0):
    self._sums, self._count = dict(sums or {}), count
    self._pending: list[Metrics] = []

  @classmethod
  def restored(cls, stored: Mapping[str, float]) -> Window:
    """The window that a checkpoint's metrics hold."""
    sums = {k.removeprefix('window/'): v for k, v in stored.items() if k.startswith('window/')}
    return cls(sums, int(sums.pop('steps', 0)))

  def add(self, metrics: Metrics) -> None:
    """Metrics [count] of the next steps; they stay on the device."""
    self._pending.append(metrics)

  def stored(self) -> dict[str, float]:
    """What `restored` takes."""
    self._fetch()
    sums = {'steps': float(self._count), **self._sums} if self._count else {}
    return {f'window/{k}': v for k, v in sums.items()}

  def means(self) -> dict[str, Any]:
    """{} without steps."""
    self._fetch()
    measured, row = self._sums.get(_telemetry.STEPS), {}
    for name, total in self._sums.items():
      if not name.startswith(_telemetry.PREFIX):
        row[name] = total / self._count
      elif measured and (vector := name.rpartition('/')[0]).endswith(_telemetry.COUNTS):
        row.setdefault(vector, []).append(total)
      elif measured:
        row[name] = total if name == _telemetry.STEPS else total / measured
    return row

  def clear(self) -> None:
    """Begins the next window."""
    self._sums, self._count = {}, 0
    self._pending.clear()

  def _fetch(self) -> None:
    """One transfer from the device."""
    for block in jax.device_get(self._pending):
      for name, values in block.items():
        # A vector is kept entry by entry: a checkpoint's metrics are numbers.
        columns = [values] if values.ndim == 1 else values.T
        for i, column in enumerate(columns):
          key = name if values.ndim == 1 else f'{name}/{i:03d}'
          for value in column.tolist():
            self._sums[key] = self._sums.get(key, 0.0) + value
      self._count += len(next(iter(block.values())))
    self._pending.clear()
