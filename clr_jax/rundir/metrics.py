"""Curves of a run: JSON lines always, TensorBoard beside them, without TensorFlow.

`clu.metric_writers` has the same interface but imports TensorFlow. So does TensorBoard's own
EventFileWriter where TensorFlow is installed; its RecordWriter does not.
"""
# pyright: reportAttributeAccessIssue=false
# (protocol buffer classes are made at import)

from __future__ import annotations

import io
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging
from etils import epath
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from clr_jax.core.storage import atomic_write, files_in, is_local, read_file
from clr_jax.rundir.codec import jsonable, number, read_object
from clr_jax.rundir.workdir import Workdir, next_number

_SEGMENT = re.compile(r'(\d{20})-step(\d{12})\.jsonl')
_ROWS_PER_FILE = 4096  # a flush writes a whole file: this bounds its size


class MetricWriter:
  """clu's MetricWriter for scalars; only process 0 writes.

  A row is {'step', 'time' (seconds since 1970), name: number or list of numbers, ...}; numbers that
  are not finite are the strings 'nan', 'inf', '-inf', so that every line is valid JSON. Rows of one
  step may come in several calls. Nothing is on disk before `flush`. A context manager that closes.

  Args:
    workdir: of the run.
    first_step: the step the run (re)starts from. Rows of earlier segments beyond it are superseded:
      the state that they describe was lost.
    tensorboard: also write event files.
  """

  def __init__(self, workdir: Workdir, *, first_step: int, tensorboard: bool = True):
    self._active = jax.process_index() == 0
    if not self._active:
      return
    self._workdir = workdir
    self._number = next_number(workdir.metrics)
    self._events = _EventFile(workdir.tensorboard, first_step) if tensorboard else None
    self._begin_file(first_step)
    self._dirty = True
    self.flush()  # an empty segment supersedes rows too

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """One row; values are numbers or arrays of one element, or lists, which only the row has."""
    if not self._active:
      return
    lists = {k: [float(x) for x in v] for k, v in scalars.items() if isinstance(v, list)}
    values = {name: float(value) for name, value in scalars.items() if name not in lists}
    self._append(step, {**values, **lists})
    if self._events:
      self._events.scalars(step, values)

  def flush(self) -> None:
    """Everything written so far is on disk when this returns."""
    if not self._active or not self._dirty:
      return
    atomic_write(self._path, ''.join(self._lines))
    self._dirty = False
    if self._events:
      self._events.flush()
    if len(self._lines) >= _ROWS_PER_FILE:
      self._begin_file(self._last_step)

  def close(self) -> None:
    """Flushes; the writer must not be used afterwards."""
    self.flush()
    if self._active and self._events:
      self._events.close()

  def __enter__(self) -> MetricWriter:
    return self

  def __exit__(self, *exc) -> None:
    self.close()

  def _begin_file(self, first_step: int) -> None:
    # Names sort by creation.
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


def read_metrics(workdir: Workdir) -> list[dict[str, Any]]:
  """Rows of all segments, sorted by step, one per step; non-finite numbers are floats again.

  A segment that starts at step s replaces what earlier segments have beyond s (a killed run got
  further than the checkpoint it was resumed from). Rows of one step (training, evaluation) are
  merged, the later value of a name counts. A damaged line is skipped with a warning.

  Raises:
    UserError: the folder cannot be read.
  """
  rows: dict[int, dict[str, Any]] = {}
  for path in files_in(workdir.metrics, '.jsonl'):
    match = _SEGMENT.fullmatch(path.name)
    if match is None:
      continue
    first_step = int(match[2])
    rows = {step: row for step, row in rows.items() if step <= first_step}
    for row in _read_segment(path):
      rows[row['step']] = {**rows.get(row['step'], {}), **row}
  return [rows[step] for step in sorted(rows)]


def _read_segment(path: epath.Path) -> list[dict[str, Any]]:
  rows = []
  try:
    lines = read_file(path).splitlines()
  except OSError as error:
    logging.warning('skipped the damaged rows of %s (%s)', path, error)
    return []
  for line in lines:
    try:
      row = {name: number(value) for name, value in read_object(line).items()}
      rows.append({**row, 'step': int(row['step'])})
    except (ValueError, KeyError, TypeError, OverflowError) as error:
      logging.warning('skipped a damaged row of %s (%s)', path, error)
  return rows


class _EventFile:
  """TensorBoard events of one segment: appended to locally, written whole in an object store."""

  def __init__(self, folder: epath.Path, first_step: int):
    # Names as TensorBoard wants them; it reads a folder's files in the order of their names.
    name = f'events.out.tfevents.{next_number(folder):020d}.{socket.gethostname()}.{os.getpid()}'
    folder.mkdir(parents=True, exist_ok=True)
    self._path = folder / name
    self._sink = self._path.open('wb') if is_local(folder) else io.BytesIO()
    self._records = RecordWriter(self._sink)
    self._add(file_version='brain.Event:2')
    # TensorBoard then drops what earlier files have from the next step on.
    self._add(step=first_step + 1, session_log=SessionLog(status=SessionLog.START))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    value = [Summary.Value(tag=k, simple_value=v) for k, v in values.items()]
    self._add(step=step, summary=Summary(value=value))

  def flush(self) -> None:
    if isinstance(self._sink, io.BytesIO):
      atomic_write(self._path, self._sink.getvalue())
    else:
      self._sink.flush()

  def close(self) -> None:
    self._sink.close()

  def _add(self, **fields) -> None:
    event = Event(wall_time=time.time(), **fields)
    self._records.write(event.SerializeToString())
