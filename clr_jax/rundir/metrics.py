"""Metrics of a run over time, as JSON lines and in the loggers of `config.loggers`.

`clu.metric_writers` has the same interface but imports TensorFlow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from clr_jax.core.storage import atomic_write
from clr_jax.rundir.codec import jsonable
from clr_jax.rundir.loggers import LOGGERS
from clr_jax.rundir.workdir import Workdir, next_number

_ROWS_PER_FILE = 4096  # bounds the size of a file, which each flush writes as a whole


class MetricWriter:
  """Writer of scalars like clu's MetricWriter; only process 0 writes.

  A row is {'step', 'time' (seconds since 1970), name: number or list of numbers, ...}; numbers that
  are not finite are the strings 'nan', 'inf', '-inf', so that every line is valid JSON. Rows of one
  step may come in several calls. Nothing is on disk before `flush`. A context manager.

  Args:
    workdir: workdir of the run.
    first_step: step from which the run (re)starts. Rows of earlier segments beyond it are
      superseded, because their state was lost.
    loggers: names in `loggers.LOGGERS`.

  Raises:
    UserError: a logger that cannot start.
  """

  def __init__(
    self, workdir: Workdir, *, first_step: int, loggers: Sequence[str] = ('tensorboard',)
  ):
    self._active = jax.process_index() == 0
    if not self._active:
      return
    self._workdir = workdir
    self._number = next_number(workdir.metrics)
    self._loggers = [LOGGERS[name](workdir, first_step) for name in loggers]
    self._begin_file(first_step)
    self._dirty = True
    self.flush()  # even an empty segment supersedes rows

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes a row of numbers, arrays with one element, or lists (which loggers do not get)."""
    if not self._active:
      return
    lists = {k: [float(x) for x in v] for k, v in scalars.items() if isinstance(v, list)}
    values = {name: float(value) for name, value in scalars.items() if name not in lists}
    self._append(step, {**values, **lists})
    for logger in self._loggers:
      logger.scalars(step, values)

  def flush(self) -> None:
    """Writes everything so far to disk."""
    if not self._active or not self._dirty:
      return
    atomic_write(self._path, ''.join(self._lines))
    self._dirty = False
    for logger in self._loggers:
      logger.flush()
    if len(self._lines) >= _ROWS_PER_FILE:
      self._begin_file(self._last_step)

  def close(self) -> None:
    """Flushes; the writer must not be used afterwards."""
    self.flush()
    for logger in self._loggers if self._active else ():
      logger.close()

  def __enter__(self) -> MetricWriter:
    return self

  def __exit__(self, *exc) -> None:
    self.close()

  def _begin_file(self, first_step: int) -> None:
    # File names sort by creation.
    name = f'{self._number:020d}-step{first_step:012d}.jsonl'
    self._path = self._workdir.metrics / name
    self._number += 1
    self._last_step = first_step
    self._lines: list[str] = []

  def _append(self, step: int, values: Mapping[str, Any]) -> None:
    row = {'step': int(step), 'time': round(time.time(), 3), **values}
    self._lines.append(json.dumps(jsonable(row), allow_nan=False) + '\n')
    self._last_step = max(self._last_step, int(step))
    self._dirty = True
