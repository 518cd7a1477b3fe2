"""Additional outputs of a run's metrics: TensorBoard, a CSV file, Weights & Biases.

TensorBoard's EventFileWriter imports TensorFlow if installed; its RecordWriter does not.
"""
# pyright: reportAttributeAccessIssue=false
# (protocol buffer classes are created at import)

from __future__ import annotations

import csv
import hashlib
import importlib
import importlib.util
import io
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from clr_jax.core.errors import UserError
from clr_jax.core.storage import atomic_write, first_line, is_local
from clr_jax.rundir.codec import read_object
from clr_jax.rundir.rows import read_metrics
from clr_jax.rundir.workdir import Workdir, next_number

LoggerName = Literal['tensorboard', 'csv', 'wandb']


class Logger(Protocol):
  """Output for the rows of one start of a run; constructed with (workdir, first step)."""

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes numbers of a step; more of the same step may follow."""

  def flush(self) -> None:
    """Called after the run's own rows are on disk."""

  def close(self) -> None:
    """Called once, after `flush`."""


def check_loggers(names: Sequence[str]) -> None:
  """Raises a UserError for a logger whose package is not installed."""
  if 'wandb' in names and importlib.util.find_spec('wandb') is None:
    raise UserError(
      f'loggers={",".join(names)} needs Weights & Biases, which is not installed: pip install '
      f"'clr-jax[wandb]', or leave wandb out"
    )


class _TensorBoard:
  """Events of one segment, appended to a local file or written as a whole to an object store."""

  def __init__(self, workdir: Workdir, first_step: int):
    # TensorBoard expects such names; it reads the files of a folder in their order.
    folder = workdir.tensorboard
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


class _Csv:
  """`metrics.csv`: a line per step, a column per name, for the whole run."""

  def __init__(self, workdir: Workdir, first_step: int):
    del first_step  # the run's own rows determine which are superseded
    self._workdir = workdir

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    pass  # they are in the run's own rows when `flush` is called

  def flush(self) -> None:
    rows = read_metrics(self._workdir)
    names = list(dict.fromkeys(k for row in rows for k, v in row.items() if not _is_list(v)))
    text = io.StringIO()
    table = csv.DictWriter(text, names, extrasaction='ignore', lineterminator='\n')
    table.writeheader()
    table.writerows(rows)
    atomic_write(self._workdir.path / 'metrics.csv', text.getvalue())

  def close(self) -> None:
    pass


def _is_list(value: Any) -> bool:
  return isinstance(value, list | tuple)


class _WandB:
  """A run of Weights & Biases, continued after a resume; WANDB_MODE=offline keeps it local."""

  def __init__(self, workdir: Workdir, first_step: int):
    del first_step  # repeated rows replace nothing: the x axis is the column `step`
    wandb: Any = importlib.import_module('wandb')  # an extra, and slow to import
    record = read_object((workdir.path / 'config.json').read_bytes())
    identity = f'{workdir.path} {record.get("time")}'
    try:
      self._run = wandb.init(
        project=os.environ.get('WANDB_PROJECT', 'clr_jax'),
        name=workdir.path.name,
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        resume='allow',
        dir=os.fspath(workdir.path) if is_local(workdir.path) else None,
        config=record.get('config'),
      )
    except Exception as error:  # many types: no account, no network, no space
      raise UserError(
        f'Weights & Biases cannot start ({first_line(error)}): run `wandb login`, set '
        f'WANDB_MODE=offline, or leave wandb out of loggers'
      ) from error
    self._run.define_metric('*', step_metric='step')

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log({**values, 'step': step})

  def flush(self) -> None:
    pass  # wandb sends in the background

  def close(self) -> None:
    self._run.finish()


LOGGERS: Mapping[str, Callable[[Workdir, int], Logger]] = {
  'tensorboard': _TensorBoard,
  'csv': _Csv,
  'wandb': _WandB,
}
