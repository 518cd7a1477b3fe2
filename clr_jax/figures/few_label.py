"""Accuracy against the number of labels, for several networks and classifiers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clr_jax.core.intervals import Interval, interval
from clr_jax.evaluation.probing.subject import described
from clr_jax.figures.drawing.data import Axis, Block, FigureData, Figures, Line, Panel, Table
from clr_jax.rundir.reader import Run

PROTOCOLS = ('few_label', 'linear', 'finetune')  # records with a number of labels

Curve = list[tuple[int, Interval]]  # (number of labels, accuracy in [0, 1] over the draws)


def few_label(runs: Sequence[Run]) -> Figures:
  """Figure of the results of `clr-jax evaluate few-label`, `linear` and `finetune`.

  There is a line for each run with kind of features and classifier, and for networks trained from
  scratch: the mean over draws with its 95 % interval. Only the newest step of each run, and the
  data set of the newest record, are used.
  """
  records = {run.name: _newest(run) for run in runs}
  missing = [f'{name} has no results with few labels' for name, own in records.items() if not own]
  # The files of a run are in order; only between runs the clock decides.
  last = max((own[-1] for own in records.values() if own), key=lambda r: r['time'], default={})
  data = last.get('data_checksum')
  same = {k: [r for r in own if r['data_checksum'] == data] for k, own in records.items()}
  missing += [f'{k}, whose results are of other data' for k in same if records[k] and not same[k]]
  curves = few_label_curves(same)
  if not curves:
    return Figures([], [*missing, 'first run clr-jax evaluate few-label'])
  lines = [_line(number, name, curve) for number, (name, curve) in enumerate(curves.items())]
  panel = Panel(
    'Accuracy with few labels',
    Axis('labels', log=True, ticks=_ticks({n for curve in curves.values() for n, _ in curve})),
    Axis('top-1 test accuracy, %'),
    lines,
    'Mean and 95 % interval over the draws (Student t); one draw has no interval.',
  )
  header = ('line', 'num_labels', 'top1_mean', 'top1_half_interval_95', 'draws')
  rows = [(name, n, *value) for name, curve in curves.items() for n, value in curve]
  return Figures(
    [FigureData('', [Block([panel], 1, (7.0, 4.2))], {'': Table(header, rows)})], missing
  )


def few_label_curves(records: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, Curve]:
  """Computes accuracy by number of labels for each line.

  Only accuracies of the last epoch are used, not those selected on the test set, and only the last
  record of a draw. Runs with equal numbers are one line: with equal seed and model, the untrained
  network and the one trained from scratch are the same.

  Args:
    records: {name of a run: records of one step and data set}; records without a number of labels
      are ignored.
  """
  values: dict[tuple[str, str], dict[int, dict[Any, float]]] = defaultdict(
    lambda: defaultdict(dict)
  )
  for label, own in records.items():
    for record in filter(_has_labels, own):
      params = record['params']
      if params.get('selection') in (None, 'last'):
        draws = values[label, _classifier(record)][params['num_labels']]
        draws[params.get('draw')] = record['value']
  shared: dict[tuple[str, str], list[str]] = defaultdict(list)
  for (label, what), amounts in values.items():
    shared[what, repr(sorted(amounts.items()))].append(label)
  return {
    f'{", ".join(labels)}: {what}': [
      (n, interval(list(draws.values()))) for n, draws in sorted(values[labels[0], what].items())
    ]
    for (what, _), labels in shared.items()
  }


def _newest(run: Run) -> list[dict[str, Any]]:
  found = list(filter(_has_labels, run.results))
  last = max((record['step'] for record in found), default=None)
  return [record for record in found if record['step'] == last]


def _has_labels(record: Mapping[str, Any]) -> bool:
  return record['protocol'] in PROTOCOLS and 'num_labels' in record['params']


def _classifier(record: Mapping[str, Any]) -> str:
  """Describes the classifier and its features."""
  params, kind = record['params'], record['features']
  if 'baseline' in params or record['protocol'] == 'finetune':
    what = 'fine-tuned' if kind in ('trained', 'weights') else 'supervised from scratch'
    how = params.get('baseline') or params.get('preset')
  else:
    what, how = f'linear layer on {described(kind)}', params.get('preset') or params['solver']
  return f'{what} ({how}{"" if params.get("balanced", True) else ", labels not balanced"})'


def _line(number: int, name: str, curve: Curve) -> Line:
  means, halves = ([100 * value[i] for _, value in curve] for i in (0, 1))
  return Line(name, number, [n for n, _ in curve], means, y_half=halves)


def _ticks(amounts: Iterable[int]) -> dict[float, str]:
  """Amounts that are far enough apart on a log axis to be readable."""
  first, *others = sorted(amounts)
  kept = [first]
  for amount in others:
    if np.log(amount / kept[-1]) > 0.05 * np.log(others[-1] / first):
      kept.append(amount)
  return {amount: f'{amount:,}' for amount in kept}
