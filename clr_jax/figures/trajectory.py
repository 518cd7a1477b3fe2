"""An evaluation protocol against the epochs of training: figures 4 and 5 of the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from clr_jax.core.config_tree import to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.intervals import Interval, interval
from clr_jax.core.names import check_name
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation.over_steps import evaluate_steps
from clr_jax.figures.accuracy import condition, is_last
from clr_jax.figures.analysis.seed_groups import seed_groups
from clr_jax.figures.drawing.data import Axis, Block, FigureData, Figures, Line, Panel, Table
from clr_jax.figures.drawing.metric_panels import PERCENT, accuracy_limits
from clr_jax.rundir.reader import Run
from clr_jax.rundir.table import averaged, is_accuracy

_EPOCHS = Axis('epoch', whole=True)
_STEPS = Axis('training step', whole=True)


class _Point(NamedTuple):
  """A value of a run: name of its group, protocol with options, and step."""

  group: str
  condition: str
  step: int
  value: Interval


def trajectory(
  runs: Sequence[Run],
  *,
  protocol: str = 'knn',
  metric: str = 'top1',
  measure: bool = True,
) -> Figures:
  """Draws a protocol of `clr-jax evaluate` at all kept checkpoints of each run.

  It uses the whole test set and the options of the run's `eval.protocols`. Checkpoints without a
  result are measured, and the results kept. Runs that differ only in the seed are one line: their
  mean, with its 95 % interval (Student's t over the runs); a single run has that over its draws.

  Args:
    runs: runs to draw; keep their checkpoints by `keep_last` and `checkpoint_every`.
    protocol: name of the protocol.
    metric: metric of the results.
    measure: False draws only existing results.

  Raises:
    UserError: an unknown protocol, or a metric that it does not have.
  """
  check_name(protocols.names(), protocol, 'protocol')
  points, missing = [], []
  for group in seed_groups(runs):
    for run in group.runs:
      records, reason = _records(run, protocol, measure)
      missing += [reason] if reason else []
      points += _points(records, group.name, metric)
  if not points:
    return Figures([], missing or [f'no run has results of {protocol}: {metric}'])
  per_epoch = {
    group.name: next((r.steps_per_epoch for r in group.runs if r.steps_per_epoch), None)
    for group in seed_groups(runs)
  }
  in_epochs = all(per_epoch[point.group] for point in points)
  curves = _curves(points)
  panels = []
  for name in dict.fromkeys(point.condition for point in points):
    marks = []
    for look, group in enumerate(per_epoch):
      if not (curve := curves.get((name, group))):
        continue
      unit = 100 if is_accuracy(metric) else 1
      x = [step / (per_epoch[group] or 1) if in_epochs else step for step in curve]
      means = [unit * value.mean for value in curve.values()]
      halves = [unit * value.half for value in curve.values()]
      marks.append(Line(group, look, x, means, y_half=halves))
    label = PERCENT if metric == 'top1' else metric + ', %' * is_accuracy(metric)
    y = Axis(label, limits=accuracy_limits(marks) if is_accuracy(metric) else None)
    panels.append(Panel(name, _EPOCHS if in_epochs else _STEPS, y, marks))
  header = ('condition', 'group', 'step', 'epoch', f'{metric}_mean', 'half_interval_95', 'n')
  rows = [
    (name, group, step, step / per if (per := per_epoch[group]) else '', *value)
    for (name, group), curve in curves.items()
    for step, value in curve.items()
  ]
  block = Block(panels, 2, (6.0, 4.0))
  return Figures([FigureData('', [block], {'': Table(header, rows)})], missing)


def _records(run: Run, protocol: str, measure: bool) -> tuple[list[Mapping[str, Any]], str]:
  """Records of a protocol at all steps, measured where missing; the reason if none can be."""
  reason = ''
  if len(run.checkpoints) < 2:
    reason = (
      f'{run.name} keeps {len(run.checkpoints)} checkpoints: train with --config.keep_last=1000 '
      'and --config.checkpoint_every=EPOCHS for more'
    )
  found: Iterable[Mapping[str, Any]] = run.results
  if measure and run.checkpoints:
    options = to_dict(run.config.eval.protocols).get(protocol) or {}
    try:
      found = evaluate_steps(run.config, run.directory, protocol, options, run.checkpoints)
    except UserError as error:
      reason = f'checkpoints of {run.name}: {error}'
  own = [r for r in found if r['protocol'] == protocol and r['features'] == 'trained']
  return [record for record in own if is_last(record)], reason


def _points(records: Sequence[Mapping[str, Any]], group: str, metric: str) -> list[_Point]:
  found = []
  for step in sorted({record['step'] for record in records}):
    rows = averaged(r for r in records if r['step'] == step and r['metric'] == metric)
    found += [_Point(group, condition(row), step, row.value) for row in rows]
  return found


def _curves(points: Sequence[_Point]) -> dict[tuple[str, str], dict[int, Interval]]:
  """{(condition, group): {step: mean and interval}} over the runs, or the draws of a single one."""
  values: dict[tuple[str, str], dict[int, list[Interval]]] = {}
  for point in points:
    steps = values.setdefault((point.condition, point.group), {})
    steps.setdefault(point.step, []).append(point.value)
  return {
    key: {
      step: own[0] if len(own) == 1 else interval([value.mean for value in own])
      for step, own in sorted(steps.items())
    }
    for key, steps in values.items()
  }
