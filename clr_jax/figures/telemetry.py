"""Runs with telemetry, as the pictures of scores and gradients take them, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir import workdir
from clr_jax.rundir.identity import read_config, trajectory
from clr_jax.rundir.metrics import read_metrics
from clr_jax.rundir.reader import run_name

PREFIX = 'telemetry/'
_HOW = (
  'train with --config.telemetry.enabled=True; in a run that has not ended the same command with '
  'this flag goes on with it'
)


class Run(NamedTuple):
  """Attributes:
  name: short, tells the runs apart.
  directory: of the run.
  config: of its last start.
  rows: of `read_metrics`; some have telemetry.
  """

  name: str
  directory: str
  config: Config
  rows: list[dict[str, Any]]

  def points(self, key: str) -> tuple[list[int], list[float]]:
    """(steps, values) of the rows that have the metric; NaN and infinity stay."""
    found = [(r['step'], r[key]) for r in self.rows if isinstance(r.get(key), (int, float))]
    return [step for step, _ in found], [value for _, value in found]


def read_runs(directories: Sequence[str]) -> tuple[list[Run], list[str]]:
  """(the runs with telemetry, a sentence for each other directory that says what it lacks)."""
  runs, missing = [], []
  for directory in directories:
    try:
      found = workdir.Workdir(directory)
      config = read_config(found)
      rows = read_metrics(found)
    except UserError as error:
      missing.append(str(error))
      continue
    if any(key.startswith(PREFIX) for row in rows for key in row):
      runs.append(Run(run_name(directory, directories), directory, config, rows))
    else:
      missing.append(f'{directory} has no telemetry: {_HOW}')
  return runs, missing


def say_missing(written: Sequence[Any], missing: Iterable[str]) -> None:
  """One line on the terminal for each thing that is not drawn.

  Raises:
    UserError: all that, because nothing is drawn.
  """
  missing = list(dict.fromkeys(missing))
  if not written:
    raise UserError('; '.join(missing))
  for line in missing:
    print(f'left out: {line}')


def varied_keys(items: Iterable[Config]) -> list[str]:
  """Keys of what is trained that all configs have, with different values; not the seed."""
  flat = [trajectory(to_dict(config), keys_without_effect(config)) for config in items]
  return [
    key
    for key in flat[0]
    if key != 'seed'
    and all(key in other for other in flat)
    and any(other[key] != flat[0][key] for other in flat)
  ]


def finite(values: Iterable[float]) -> list[float]:
  """Without NaN and infinity."""
  return [value for value in values if math.isfinite(value)]
