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

# Parts of a config that the cost of a training step depends on.
_STEP = (
  *('accumulate', 'augment', 'batch_size', 'data', 'deterministic', 'method', 'model'),
  *('optimizer', 'plugins', 'precision', 'probe', 'sam', 'shard_optimizer', 'telemetry'),
)
_DATA = 'canvas', 'image_size', 'mode', 'train_split'
_HEAD = (
  *('row', 'data', 'hardware', 'images a step', 'steps', 'GiB a device'),
  *('minutes, at least', 'minutes, estimated', 'images a second, estimated'),
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
  """A text that is equal for configs whose training steps cost about the same.

  Such steps differ only in the values of numbers and in the number of classes. An option that is 0
  is off, and so differs from others. Options that other values turn off are small parts of a step.

  Args:
    config: config of a run.

  Raises:
    UserError: the form of its data set is not known to `blank_form`.
  """
  options = config.to_dict()
  data = {name: options['data'][name] for name in _DATA} | {'name': blank_form(config.data.name)}
  parts = {name: _shape((options | {'data': data})[name]) for name in _STEP}
  return json.dumps(parts, sort_keys=True)


def _shape(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {name: _shape(own) for name, own in value.items()}
  if isinstance(value, (list, tuple)):
    return [_shape(own) for own in value]
  return bool(value) if isinstance(value, float) else value


def costs(wanted: Iterable[Cell], plans: Iterable[Plan]) -> list[tuple[Cell, Cost]]:
  """The cost of cells on each kind of hardware.

  Args:
    wanted: cells at full scale.
    plans: plans, of which the last for a run and hardware counts.

  Returns:
    Cells in their order; several times with several kinds of hardware, not at all without a plan.
  """
  known: dict[tuple[str, str, str], dict[str, Cost]] = {}
  for plan in plans:
    for table, run, data, steps in plan.runs:
      known.setdefault((table, run, data), {})[plan.target] = Cost(plan, steps)
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
        _number(cost.plan.images * cost.steps / (60 * cost.estimate)),
      )
      for cell, cost in found
    ),
  ]


def summary_lines(plans: Iterable[Plan]) -> list[tuple[str, ...]]:
  """Lines of a table of the cost of each table's runs, one for each kind of hardware.

  Args:
    plans: plans.
  """
  lines = [_SUMMARY]
  for name, by_target in _by_table(plans).items():
    for target, own in by_target.items():
      lines.append(
        (
          *(name, target, _share(name, own), _range(own, lambda c: c.plan.memory, _gib)),
          _range(own, lambda c: c.least, lambda c: _number(c.least)),
          _range(own, lambda c: c.estimate, lambda c: _number(c.estimate)),
          _hours(own),
        )
      )
  return lines


def hours(plans: Iterable[Plan]) -> dict[str, str]:
  """{table: estimated hours of its runs, with the hardware and the share of runs with a plan}.

  Args:
    plans: plans.
  """
  return {
    name: ', '.join(
      f'{_hours(own)} ({target}, {_share(name, own)} runs)' for target, own in by_target.items()
    )
    for name, by_target in _by_table(plans).items()
  }


def _by_table(plans: Iterable[Plan]) -> dict[str, dict[str, list[Cost]]]:
  """{table: {hardware: cost of each run}}, in the order of the tables."""
  found: dict[str, dict[str, dict[tuple[str, str], Cost]]] = {}
  for cell, cost in costs((cell for name in names() for cell in cells(name)), plans):
    by_target = found.setdefault(cell.table, {})
    by_target.setdefault(cost.plan.target, {})[cell.run, cell.data] = cost
  return {
    name: {target: list(runs.values()) for target, runs in by_target.items()}
    for name, by_target in found.items()
  }


def _share(name: str, own: Sequence[Cost]) -> str:
  """The number of runs with a cost, and of all if some have none."""
  trained = {(cell.run, cell.data) for cell in cells(name) if not cell.elsewhere}
  return f'{len(own)}' + (f' of {len(trained)}' if len(own) < len(trained) else '')


def _hours(own: Iterable[Cost]) -> str:
  return _number(sum(cost.estimate for cost in own) / 60) or 'no estimate'


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
