"""Groups of runs that differ only in the seed: their curves and results with intervals."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clr_jax.core.config_tree import to_dict
from clr_jax.core.intervals import Interval, interval
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir import table
from clr_jax.rundir.identity import trajectory
from clr_jax.rundir.reader import Run

_SEED_SUFFIX = re.compile(r'[-_.= ]+(seed|s)?[-_.= ]*$')  # 'moco_s' of 'moco_s0' and 'moco_s1'


class Group(NamedTuple):
  """Runs with the same config except for the seed.

  Attributes:
    name: unique name of the group.
    runs: runs that are equal in every key that affects training except the seed.
  """

  name: str
  runs: list[Run]


def seed_groups(runs: Sequence[Run]) -> list[Group]:
  """Groups runs by config, in the given order."""
  found: dict[str, list[Run]] = {}
  for run in runs:
    found.setdefault(json.dumps(trajectory_without_seed(run), sort_keys=True), []).append(run)
  names = [_name(members) for members in found.values()]
  return [
    Group(name if names.count(name) == 1 else f'{name}: {members[0].name}', members)
    for name, members in zip(names, found.values(), strict=True)
  ]


def differing_keys(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
  """Differing keys except the seed: (key, its value in each run as JSON or 'unset')."""
  flat = [trajectory_without_seed(run) for run in runs]
  keys = sorted({key for own in flat for key in own})
  rows = [(key, [json.dumps(own[key]) if key in own else 'unset' for own in flat]) for key in keys]
  return [(key, values) for key, values in rows if len(set(values)) > 1]


def mean_curve(group: Group, metric: str) -> list[tuple[int, Interval]]:
  """(step, mean and 95 % interval over the runs with the metric at that step), in order."""
  values: dict[int, list[float]] = {}
  for run in group.runs:
    for step, value in zip(*run.series(metric), strict=True):
      values.setdefault(step, []).append(value)
  return [(step, interval(values[step])) for step in sorted(values)]


def group_results(groups: Sequence[Group]) -> list[dict[str, Any]]:
  """Records for `rundir.table`, one per setting and run, sorted by settings.

  Uses only the newest step of each run. A run's value is the mean over its draws; the draws of the
  table are the runs of the group.
  """
  records = []
  for group in groups:
    newest = [_newest(run) for run in group.runs]
    steps = sorted({row.first['step'] for rows in newest for row in rows})
    step = ' to '.join(str(s) for s in dict.fromkeys((steps[0], steps[-1]))) if steps else ''
    for run, rows in zip(group.runs, newest, strict=True):
      records += [_record(row, group, run, step) for row in rows]
  order = {key: i for i, key in enumerate(dict.fromkeys(map(_setting, records)))}
  return sorted(records, key=lambda record: order[_setting(record)])


def trajectory_without_seed(run: Run) -> dict[str, Any]:
  """{dotted key: value} of all keys that affect training except the seed."""
  keys = trajectory(to_dict(run.config), keys_without_effect(run.config))
  return {k: v for k, v in keys.items() if k != 'seed'}


def _newest(run: Run) -> list[table.Row]:
  last = max((record['step'] for record in run.results), default=None)
  return table.averaged(record for record in run.results if record['step'] == last)


def _record(row: table.Row, group: Group, run: Run, step: str) -> dict[str, Any]:
  kept = {key: row.first[key] for key in ('protocol', 'features', 'metric', 'data')}
  return {
    **kept,
    'params': {**table.settings(row.first['params']), 'draw': run.name},
    'value': row.value.mean,
    'step': step,
    'data_checksum': row.first['data_checksum'],
    'run': group.name,
  }


def _setting(record: Mapping[str, Any]) -> str:
  """All fields except the group and the run."""
  asked = {k: v for k, v in record['params'].items() if k != 'draw'}
  kept = [record[key] for key in ('protocol', 'features', 'metric', 'data')]
  return json.dumps([*kept, asked], sort_keys=True)


def _name(runs: Sequence[Run]) -> str:
  if len(runs) == 1:
    return runs[0].name
  columns = zip(*(run.name for run in runs), strict=False)
  same = itertools.takewhile(lambda letters: len(set(letters)) == 1, columns)
  shared = _SEED_SUFFIX.sub('', ''.join(letters[0] for letters in same))
  return f'{shared or runs[0].name} ({len(runs)} runs)'
