"""What the files of a run tell, without its network and its images."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath
from flax import traverse_util

from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError
from clr_jax.data import steps_per_epoch
from clr_jax.rundir import workdir
from clr_jax.rundir.codec import jsonable
from clr_jax.rundir.identity import read_config
from clr_jax.rundir.metrics import read_metrics
from clr_jax.rundir.results import read_results

UNKNOWN = 'unknown'


class Run(NamedTuple):
  """A run as its workdir shows it.

  Attributes:
    name: tells the runs of a report apart.
    directory: as given.
    config: of the last start, perhaps without keys that this version has.
    starts: the config files' other fields: code_version, time, config_hash, changed.
    rows: of metrics.
    records: of results.
    data: facts of the training images; {} if they were not recorded.
    parameters: the text of parameters.txt, or None.
    checkpoints: their steps.
  """

  name: str
  directory: str
  config: Config
  starts: list[dict[str, Any]]
  rows: list[dict[str, Any]]
  records: list[dict[str, Any]]
  data: dict[str, Any]
  parameters: str | None
  checkpoints: list[int]

  @property
  def flat(self) -> dict[str, Any]:
    """The config as {'data.name': ...}."""
    nested = jsonable(to_dict(self.config))
    flat = traverse_util.flatten_dict(nested, keep_empty_nodes=True, sep='.')
    return {k: {} if v is traverse_util.empty_node else v for k, v in flat.items()}

  def get(self, key: str, default: Any = None) -> Any:
    """A value of the config by its dotted key."""
    return self.flat.get(key, default)

  @property
  def step(self) -> int:
    """The last step that left a trace."""
    return max([0, *self.checkpoints, *(row['step'] for row in self.rows)])

  @property
  def steps_per_epoch(self) -> int | None:
    """None if the number of training images or the batch size is not known."""
    number, batch = self.data.get('number'), self.get('batch_size')
    try:
      return steps_per_epoch(num_examples=number, batch_size=batch) if number and batch else None
    except UserError:
      return None

  @property
  def total_steps(self) -> int | None:
    """Of the whole run, None if not known."""
    per_epoch, epochs = self.steps_per_epoch, self.get('num_epochs')
    return round(epochs * per_epoch) if per_epoch and epochs else None

  @property
  def status(self) -> str:
    """'finished', or how far it came."""
    total = self.total_steps
    if total is None:
      return f'{UNKNOWN}: the number of training images is not recorded (step {self.step:,})'
    if not self.step:
      return 'not begun: it has neither metrics nor a checkpoint'
    stop = self.get('stop_at_epoch')
    planned = total if stop is None else min(total, round(stop * (self.steps_per_epoch or 1)))
    if max(self.checkpoints, default=0) >= total:
      return 'finished'
    if max(self.checkpoints, default=0) >= planned:
      return f'stopped as asked (stop_at_epoch={stop:g}): step {self.step:,} of {total:,}'
    return f'interrupted, or still running: step {self.step:,} of {total:,}'

  @property
  def training_seconds(self) -> float | None:
    """Seconds in training steps, from the throughput of each row; None without metrics."""
    seconds, last = 0.0, 0
    for row in self.rows:
      if row.get('samples_per_second') and self.get('batch_size'):
        seconds += (row['step'] - last) * self.get('batch_size') / row['samples_per_second']
        last = row['step']
    return seconds or None

  def facts(self) -> dict[str, Any]:
    """For the JSON file."""
    return {
      'name': self.name,
      'directory': self.directory,
      'status': self.status,
      'step': self.step,
      'total_steps': self.total_steps,
      'checkpoints': self.checkpoints,
      'training_seconds': self.training_seconds,
      'starts': self.starts,
      'training_images': self.data,
      'config': self.flat,
    }


def read(directory: str, directories: Sequence[str]) -> Run:
  """Reads the files of a run.

  Args:
    directory: its workdir.
    directories: of all runs of the report, for a name that tells them apart.

  Raises:
    UserError: it is not a run.
  """
  run = workdir.Workdir(directory)
  config = read_config(run)
  name = run_name(directory, directories)
  text = run.path / 'parameters.txt'
  return Run(
    name=name,
    directory=str(run.path),
    config=config,
    starts=_starts(run),
    rows=read_metrics(run),
    records=[{'run': name, **record} for record in read_results(run)],
    data=_json(run.path / 'data.json'),
    parameters=text.read_text() if text.exists() else None,
    checkpoints=_checkpoints(run),
  )


def _starts(run: workdir.Workdir) -> list[dict[str, Any]]:
  paths = [run.path / 'config.json']
  while (following := run.path / f'config-{len(paths)}.json').exists():
    paths.append(following)
  return [{k: v for k, v in _json(path).items() if k != 'config'} for path in paths]


def _json(path: Any) -> dict[str, Any]:
  """{} where there is no file or no JSON object."""
  try:
    found = json.loads(path.read_text()) if path.exists() else {}
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _checkpoints(run: workdir.Workdir) -> list[int]:
  """Steps of the complete ones: Orbax gives a folder its number when everything is in it."""
  if not run.checkpoints.exists():
    return []
  names = [path.name for path in run.checkpoints.iterdir()]
  return sorted(int(name) for name in names if re.fullmatch(r'\d+', name))


# ---------------------------------------------------------------- words
def reason(error: Exception) -> str:
  """Why something could not be made, on one line."""
  line = str(error).strip().partition('\n')[0].rstrip('.')
  if isinstance(error, UserError):
    return line
  return f'it does not fit this version of clr-jax ({type(error).__name__}: {line})'


def duration(seconds: float | None) -> str:
  """'1:02:03 h', '12.3 s'."""
  if seconds is None:
    return UNKNOWN
  if seconds < 60:
    return f'{seconds:.1f} s'
  return f'{datetime.timedelta(seconds=round(seconds))} h'


def text(value: Any) -> str:
  """A value of a config or a record in a cell."""
  if value is None:
    return 'None'
  if isinstance(value, float):
    return f'{value:.6g}'
  if isinstance(value, Mapping):
    return ', '.join(f'{k}={text(v)}' for k, v in value.items()) or '{}'
  if isinstance(value, (list, tuple)):
    return f'({", ".join(map(text, value))})'
  return str(value)


def run_name(directory: str, directories: Sequence[str]) -> str:
  """The last part of the path where that tells the runs apart."""
  names = [epath.Path(d).name for d in directories]
  name = epath.Path(directory).name
  return name if names.count(name) == 1 else directory
