"""Expected cost of the runs of the tables on hardware, from the plans of the ledger."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from clr_jax.core.config_tree import Config
from clr_jax.data.sources.blank import blank_form
from clr_jax.studies.ledger import Plan
from clr_jax.studies.tables import Cell, cells, names

# Parts of a config that the program of its training step depends on.
_STEP = (
  *('accumulate', 'augment', 'batch_size', 'data', 'method', 'model', 'optimizer', 'plugins'),
  *('precision', 'probe', 'sam', 'shard_optimizer'),
)
_HEAD = (
  *('row', 'data', 'hardware', 'images a step', 'steps', 'GiB a device'),
  *('minutes, at least', 'minutes, estimated'),
)
_SUMMARY = (
  *('table', 'hardware', 'runs', 'GiB a device', 'minutes a run, at least'),
  *('minutes a run, estimated', 'hours of all runs, estimated'),
)


class Cost(NamedTuple):
  """Cost of a run on some hardware.

  Attributes:
    plan: plan of its step.
    steps: number of steps.
  """

  plan: Plan
  steps: int

  @property
  def least(self) -> float:
    """Lower bound of the minutes; NaN if the hardware has none."""
    return self._minutes(self.plan.least_seconds)

  @property
  def estimate(self) -> float:
    """Estimated minutes; NaN if the hardware has no estimate."""
    return self._minutes(self.plan.estimated_seconds)

  def _minutes(self, seconds: float | None) -> float:
    return math.nan if seconds is None else seconds * self.steps / 60


def step_key(config: Config) -> str:
  """A text that is equal for configs whose training steps differ only in the values of numbers.

  Numbers that are zero differ from all others, because options that are 0 are off.

  Args:
    config: config of a run.
  """
  options = config.to_dict()
  options['data'] = options['data'] | {'name': blank_form(config.data.name)}
  return json.dumps({name: _shape(options[name]) for name in _STEP}, sort_keys=True)


def _shape(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {name: _shape(own) for name, own in value.items()}
  if isinstance(value, (list, tuple)):
    return [_shape(own) for own in value]
  return bool(value) if isinstance(value, float) else value


def costs(wanted: Iterable[Cell], plans: Iterable[Plan]) -> list[tuple[Cell, Cost]]:
  """The costs of those cells that have plans, for each kind of hardware that of the newest plan.

  Args:
    wanted: cells at full scale.
    plans: plans.
  """
  known: dict[tuple[str, str, str], dict[str, Cost]] = {}
  for plan in sorted(plans, key=lambda p: p.time):
    for table, run, data, steps in plan.runs:
      known.setdefault((str(table), str(run), str(data)), {})[plan.target] = Cost(plan, int(steps))
  return [
    (cell, cost)
    for cell in wanted
    for cost in known.get((cell.table, cell.run, cell.data), {}).values()
  ]


def cost_lines(found: Iterable[tuple[Cell, Cost]]) -> list[tuple[str, ...]]:
  """Lines of a table of the cost of each cell, from `costs`."""
  return [
    _HEAD,
    *(
      (
        *(cell.row, cell.data, cost.plan.target, f'{cost.plan.images:,}', f'{cost.steps:,}'),
        *(_gib(cost), _number(cost.least), _number(cost.estimate)),
      )
      for cell, cost in found
    ),
  ]


def summary_lines(plans: Iterable[Plan]) -> list[tuple[str, ...]]:
  """Lines of a table of the cost of each table's runs.

  Args:
    plans: plans.
  """
  lines = [_SUMMARY]
  for (name, target), own in _by_table(plans).items():
    lines.append(
      (
        *(f'`{name}`', f'`{target}`', str(len(own)), _range(own, lambda c: c.plan.memory, _gib)),
        _range(own, lambda c: c.least, lambda c: _number(c.least)),
        _range(own, lambda c: c.estimate, lambda c: _number(c.estimate)),
        _hours(own),
      )
    )
  return lines


def hours(plans: Iterable[Plan]) -> dict[str, str]:
  """{table: estimated hours of all of its runs, with the hardware}.

  Args:
    plans: plans.
  """
  found: dict[str, str] = {}
  for (name, target), own in _by_table(plans).items():
    found[name] = ', '.join(filter(None, (found.get(name), f'{_hours(own)} ({target})')))
  return found


def _by_table(plans: Iterable[Plan]) -> dict[tuple[str, str], list[Cost]]:
  """{(table, hardware): cost of each run}, in the order of the tables."""
  found: dict[tuple[str, str], dict[tuple[str, str], Cost]] = {}
  for cell, cost in costs((cell for name in names() for cell in cells(name)), plans):
    found.setdefault((cell.table, cost.plan.target), {})[cell.run, cell.data] = cost
  return {place: list(runs.values()) for place, runs in found.items()}


def _hours(own: Iterable[Cost]) -> str:
  return _number(sum(cost.estimate for cost in own) / 60)


def _gib(cost: Cost) -> str:
  return f'{cost.plan.memory / 2**30:.1f}'


def _number(value: float) -> str:
  if math.isnan(value):
    return ''
  if value < 0.05:
    return '< 0.1'
  return f'{value:,.0f}' if value >= 9.95 else f'{value:.1f}'


def _range(
  found: Sequence[Cost], size: Callable[[Cost], float], text: Callable[[Cost], str]
) -> str:
  lowest, highest = (text(choose(found, key=size)) for choose in (min, max))
  return lowest if lowest == highest else f'{lowest} to {highest}'
