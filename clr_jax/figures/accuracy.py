"""Accuracy of the trained network, untrained network and raw pixels, by protocol and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from clr_jax.core.intervals import Interval
from clr_jax.figures.drawing.data import Axis, Block, FigureData, Figures, Line, Panel, Table
from clr_jax.rundir.reader import Run
from clr_jax.rundir.table import Row, averaged

_BASELINES = {'untrained': 'the untrained network', 'pixels': 'raw pixels'}
_SPREAD = 0.5  # fraction of a row's height over which the points of all lines are spread


def accuracy(runs: Sequence[Run]) -> Figures:
  """Figure of all top-1 accuracies at each run's newest step, and a sentence for each run.

  There is a row per protocol and share of labels, and a color per run and kind of features; points
  show the mean over draws with its 95 % interval.
  """
  rows = [(run.name, row) for run in runs for row in _rows(run)]
  missing = [f'{run.name} has no accuracies' for run in runs if not _rows(run)]
  if not rows:
    return Figures([], [*missing, 'first run clr-jax evaluate'])
  conditions = list(dict.fromkeys(condition(row) for _, row in rows))
  several = len({name for name, _ in rows}) > 1
  lines: dict[str, dict[str, Interval]] = {}
  for name, row in rows:
    line = f'{name}: {row.features}' if several else row.features
    lines.setdefault(line, {})[condition(row)] = row.value
  marks = [
    _line(number, len(lines), name, values, conditions)
    for number, (name, values) in enumerate(lines.items())
  ]
  edges = (-0.6, len(conditions) - 0.4)
  panel = Panel(
    'Accuracy by protocol and share of labels',
    Axis('top-1 accuracy, %'),
    Axis('protocol', limits=edges, ticks=dict(enumerate(conditions)), reversed=True),
    marks,
    'Mean and 95 % interval over draws (Student t)',
  )
  header = ('line', 'condition', 'top1_mean', 'top1_half_interval_95', 'draws')
  table = Table(header, [(k, c, *value) for k, own in lines.items() for c, value in own.items()])
  size = (7.0, 1.2 + 0.12 * len(conditions) * (2 + len(lines)))
  text = '\n'.join(filter(None, map(verdict, runs)))
  return Figures([FigureData('', [Block([panel], 1, size)], {'': table})], missing, text)


def verdict(run: Run) -> str:
  """Improvement by training in a sentence or two; '' without a baseline."""
  values: dict[str, dict[str, Interval]] = {}
  for row in _rows(run):
    values.setdefault(row.features, {})[condition(row)] = row.value
  trained = values.get('trained', {})
  compared = [
    _comparison(trained, values[kind], name)
    for kind, name in _BASELINES.items()
    if trained.keys() & values.get(kind, {}).keys()
  ]
  return f'{run.name}: {" ".join(compared)}' if compared else ''


def _comparison(
  trained: Mapping[str, Interval], baseline: Mapping[str, Interval], name: str
) -> str:
  gains = {c: 100 * (trained[c].mean - baseline[c].mean) for c in trained if c in baseline}
  sure = {c for c in gains if 100 * (_half(trained[c]) + _half(baseline[c])) < gains[c]}
  low, high = min(gains.values()), max(gains.values())
  if len(gains) == 1:
    (only,) = gains
    if only in sure:
      return f'Training raised the accuracy ({only}) by {high:.1f} points above {name}.'
    return f'Training did not raise the accuracy ({only}) above {name} ({high:+.1f} points).'
  if len(sure) == len(gains):
    span = f'{low:.1f}' if low == high else f'{low:.1f} to {high:.1f}'
    return f'Training raised all {len(gains)} accuracies above {name}, by {span} points.'
  others = '; '.join(f'{c}: {gains[c]:+.1f} points' for c in gains if c not in sure)
  if not sure:
    return f'Training did not raise any accuracy clearly above {name} ({others}).'
  return (
    f'Training raised {len(sure)} of {len(gains)} accuracies clearly above {name}, by at most '
    f'{max(gains[c] for c in sure):.1f} points (the others: {others}).'
  )


def _half(value: Interval) -> float:
  return 0.0 if math.isnan(value.half) else value.half


def condition(row: Row) -> str:
  """Readable protocol and share of labels of a row."""
  params, name = row.first['params'], row.protocol.replace('_', '-')
  if 'label_fraction' in params and params.get('num_labels') is not None:
    return f'{name}, {100 * params["label_fraction"]:g} % of labels ({params["num_labels"]:,})'
  if params.get('per_class') is not None:
    count = params['per_class']
    return f'{name}, {count} label{"s" * (count != 1)} a class'
  if row.protocol == 'knn':
    return f'kNN, k = {params.get("k")}'
  return f'{name} {row.params}'.strip()


def _rows(run: Run) -> list[Row]:
  found = [r for r in run.results if r['metric'] == 'top1' and is_last(r)]
  last = max((record['step'] for record in found), default=None)
  return averaged(record for record in found if record['step'] == last)


def is_last(record: Mapping[str, Any]) -> bool:
  """True unless an accuracy was selected on the test set."""
  return record['params'].get('selection') in (None, 'last')


def _line(
  number: int, count: int, name: str, values: Mapping[str, Interval], conditions: Sequence[str]
) -> Line:
  """Points of one kind of features, shifted against the others."""
  shift = _SPREAD * ((number + 0.5) / count - 0.5)
  at = [i for i, key in enumerate(conditions) if key in values]
  means, halves = ([100 * values[conditions[i]][part] for i in at] for part in (0, 1))
  return Line(name, number, means, [i + shift for i in at], x_half=halves, joined=False)
