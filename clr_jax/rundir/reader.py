"""Reader of a run's files, without the network or the images."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.storage import files_in, is_file, read_file
from clr_jax.data import steps_per_epoch
from clr_jax.rundir.codec import jsonable, read_object
from clr_jax.rundir.config_records import config_records, read_config
from clr_jax.rundir.results import read_arrays, read_results
from clr_jax.rundir.rows import read_metrics
from clr_jax.rundir.workdir import Workdir

# Keys that figures need.
_PARTS: Mapping[str, Any] = {
  'augment': ConfigDict,
  'batch_size': int,
  'data': ConfigDict,
  'eval': ConfigDict,
  'method': ConfigDict,
  'model': ConfigDict,
  'num_epochs': (int, float),
  'seed': int,
}


class Run:
  """The files of a run; each is read on first use.

  Args:
    directory: workdir of the run.
    name: label of the run in a figure; by default the last part of the path.
    read: reads the config of the last start.

  Attributes:
    config: config of the last start.

  Raises:
    UserError: the directory is not a run.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    name: str = '',
    *,
    read: Callable[[Workdir], Config] = read_config,
  ):
    self.workdir = Workdir(directory)
    self.name = name or self.workdir.path.name
    self.config: Config = read(self.workdir)
    kinds = _PARTS.items()
    if lacks := [part for part, kind in kinds if not isinstance(self.config.get(part), kind)]:
      raise UserError(
        f'{self.directory} has a config.json without {", ".join(lacks)}: it is damaged or was not '
        f'written by clr-jax, so give another workdir'
      )

  # ---------------------------------------------------------------- identity
  @property
  def directory(self) -> str:
    """Path of the workdir."""
    return str(self.workdir.path)

  @functools.cached_property
  def flat_config(self) -> dict[str, Any]:
    """Flat config with JSON values: {'data.name': ...}."""
    nested = jsonable(to_dict(self.config))
    flat = traverse_util.flatten_dict(nested, keep_empty_nodes=True, sep='.')
    return {k: {} if v is traverse_util.empty_node else v for k, v in flat.items()}

  def setting(self, key: str) -> Any:
    """Value of the config at a dotted key; None if there is no such key."""
    return self.flat_config.get(key)

  @property
  def method(self) -> str:
    """Name of the method."""
    return self.config.method.name

  @property
  def seed(self) -> int:
    """RNG seed of the run."""
    return self.config.seed

  @functools.cached_property
  def starts(self) -> list[dict[str, Any]]:
    """code_version, time, config_hash and changed of each start with a new config, in order."""
    records = config_records(self.workdir)
    return [{k: v for k, v in record.items() if k != 'config'} for record in records]

  @functools.cached_property
  def data(self) -> dict[str, Any]:
    """Facts of the training images; {} if they are not recorded."""
    return _read_json(self.workdir.path / 'data.json')

  @functools.cached_property
  def parameters(self) -> str | None:
    """Content of parameters.txt."""
    path = self.workdir.path / 'parameters.txt'
    return path.read_bytes().decode(errors='replace') if is_file(path) else None

  # ---------------------------------------------------------------- numbers
  @functools.cached_property
  def metrics(self) -> list[dict[str, Any]]:
    """Rows of metrics by step, see `read_metrics`."""
    return read_metrics(self.workdir)

  def series(self, metric: str) -> tuple[list[int], list[float]]:
    """(steps, values) of rows with a number for a metric, including NaN and infinity."""
    rows = [row for row in self.metrics if isinstance(row.get(metric), (int, float))]
    return [row['step'] for row in rows], [row[metric] for row in rows]

  @functools.cached_property
  def results(self) -> list[dict[str, Any]]:
    """Records of results, oldest first, each with the run's name as 'run'."""
    return [{'run': self.name, **record} for record in read_results(self.workdir)]

  def arrays(self, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays stored with a record of `results`; {} if there are none or they are lost."""
    return read_arrays(self.workdir, record)

  # ---------------------------------------------------------------- progress
  @functools.cached_property
  def checkpoints(self) -> list[int]:
    """Steps of complete checkpoints: Orbax names a folder by its step when it is complete."""
    folder = self.workdir.checkpoints
    names = [path.name for path in files_in(folder)]
    return sorted(int(name) for name in names if re.fullmatch(r'\d+', name))

  @property
  def step(self) -> int:
    """The last step with a checkpoint or metrics."""
    return max([0, *self.checkpoints, *(row['step'] for row in self.metrics)])

  @property
  def steps_per_epoch(self) -> int | None:
    """Steps per epoch; None if the number of training images is not recorded."""
    number, batch = self.data.get('number'), self.setting('batch_size')
    if not (isinstance(number, int) and isinstance(batch, int) and number and batch):
      return None
    try:
      return steps_per_epoch(num_examples=number, batch_size=batch)
    except UserError:
      return None

  @property
  def total_steps(self) -> int | None:
    """Steps of the whole run; None if unknown."""
    per_epoch, epochs = self.steps_per_epoch, self.setting('num_epochs')
    return round(epochs * per_epoch) if per_epoch and epochs else None

  @property
  def status(self) -> str:
    """Progress of the run, such as 'finished'."""
    total, last = self.total_steps, max(self.checkpoints, default=0)
    if total is None:
      return f'unknown: the number of training images is not recorded (step {self.step:,})'
    if not self.step:
      return 'not begun: it has neither metrics nor a checkpoint'
    if last >= total:
      return 'finished'
    stop = self.setting('stop_at_epoch')
    if stop is not None and last >= round(stop * (self.steps_per_epoch or 1)):
      return f'stopped as asked (stop_at_epoch={stop:g}): step {self.step:,} of {total:,}'
    return f'interrupted, or still running: step {self.step:,} of {total:,}'

  @property
  def training_seconds(self) -> float | None:
    """Seconds spent in training steps, from the throughput of each row; None without metrics."""
    seconds, last = 0.0, 0
    for row in self.metrics:
      speed = row.get('samples_per_second')
      if isinstance(speed, (int, float)) and speed:
        seconds += (row['step'] - last) * self.config.batch_size / speed
        last = row['step']
    return seconds or None


def read_runs(
  directories: Sequence[str], *, read: Callable[[Workdir], Config] = read_config
) -> tuple[list[Run], list[str]]:
  """Opens several runs, each directory only once.

  Args:
    directories: workdirs of the runs.
    read: reads the config of a run's last start.

  Returns:
    The runs, with unique names, and a sentence for each directory that is not a run.
  """
  directories = list(dict.fromkeys(directories))
  names = [epath.Path(directory).name for directory in directories]
  runs, skipped = [], []
  for directory, name in zip(directories, names, strict=True):
    try:
      runs.append(Run(directory, name if names.count(name) == 1 else directory, read=read))
    except UserError as error:
      skipped.append(str(error))
  return runs, skipped


def _read_json(path: epath.Path) -> dict[str, Any]:
  """Reads a JSON object; {} if there is none."""
  try:
    return read_object(read_file(path))
  except (OSError, ValueError):
    return {}
