"""Accuracy against the number of labels, for several networks and classifiers."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.intervals import interval
from clr_jax.figures import plots
from clr_jax.rundir import workdir
from clr_jax.rundir.identity import read_config
from clr_jax.rundir.reader import run_name
from clr_jax.rundir.results import read_results

MARKERS = 'osD^v*X'
PROTOCOLS = ('few_label', 'linear', 'finetune')  # their records have a number of labels


class Point(NamedTuple):
  """One amount of labels; accuracies in [0, 1]."""

  num_labels: int
  mean: float
  half: float  # of the 95 % interval of the mean (Student's t over the draws); NaN for one draw
  draws: int


def figures(directories: Sequence[str], out: str) -> list[epath.Path]:
  """Draws what `clr-jax evaluate few-label` recorded in runs, with `linear` and `finetune`.

  Of each run the newest step counts, and of all only the data of the newest record.

  Args:
    directories: workdirs of runs.
    out: the picture.

  Returns:
    The picture and the CSV file.

  Raises:
    UserError: a directory is not a run, or nothing was measured.
  """
  return [epath.Path(out), draw_few_label(comparable(directories), out)]


def comparable(directories: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
  """Of each run the newest step's records with few labels, on the data of the newest of all.

  Raises:
    UserError: a directory is not a run.
  """
  records = {}
  for directory in directories:
    run = workdir.Workdir(directory)
    read_config(run)
    found = [r for r in read_results(run) if _has_labels(r)]
    last = max((r['step'] for r in found), default=None)
    records[run_name(directory, directories)] = [r for r in found if r['step'] == last]
  newest = max(itertools.chain(*records.values()), key=lambda r: r['time'], default={})
  data = newest.get('data_checksum')
  return {k: [r for r in v if r['data_checksum'] == data] for k, v in records.items()}


def draw_few_label(
  records_by_label: Mapping[str, Iterable[Mapping[str, Any]]], out: str
) -> epath.Path:
  """Draws test accuracy against the number of labels into the PNG `out`, and a CSV beside it.

  One line for each run and kind of features, classifier and network trained from scratch: the mean
  over the draws and its 95 % interval as a band. Only accuracies of the last epoch are drawn, not
  those of the best on the test set. Of records of the same draw the last one counts.

  Args:
    records_by_label: of each run, what `results.read_results` gives; other protocols'
      records are left out. They are to be of one data set and step.
    out: the picture.

  Returns:
    The path of the CSV file.

  Raises:
    UserError: no record of few labels.
  """
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  found = lines(records_by_label)
  if not found:
    raise UserError(
      f'{", ".join(records_by_label) or "nothing"}: there are no results with few labels to draw; '
      'first run clr-jax evaluate few-label'
    )
  figure = Figure(figsize=(7.0, 4.2), dpi=110, layout='constrained')
  axis = figure.subplots()
  for i, (name, points) in enumerate(found.items()):
    look = plots.look(i)
    x, mean, half, _ = (np.array(column) for column in zip(*points, strict=True))
    axis.plot(x, 100 * mean, label=name, marker=MARKERS[i % len(MARKERS)], ms=4, **look)
    half = np.nan_to_num(half)  # a single draw has no interval
    axis.fill_between(
      x, 100 * (mean - half), 100 * (mean + half), color=look['color'], alpha=0.2, lw=0
    )
  ticks = sorted({point.num_labels for points in found.values() for point in points})
  axis.set(xlabel='labels', ylabel='top-1 test accuracy, %', xscale='log')
  axis.set_xticks(*_spread(ticks))
  axis.minorticks_off()
  axis.grid(alpha=0.3)
  axis.set_title('Few labels: mean and 95 % interval over draws', fontsize=10)
  # Below the axes, where it covers no data.
  axis.legend(loc='upper center', bbox_to_anchor=(0.5, -0.18), frameon=False, fontsize=8)
  header = ('line', 'num_labels', 'top1_mean', 'top1_half_interval_95', 'draws')
  rows = [(name, *point) for name, points in found.items() for point in points]
  return plots.save(figure, out, header, rows)


def _spread(ticks: list[int]) -> tuple[list[int], list[str]]:
  """Ticks that are far enough apart on a log axis to be read."""
  kept = [ticks[0]]
  for tick in ticks[1:]:
    if np.log(tick / kept[-1]) > 0.05 * np.log(ticks[-1] / ticks[0]):
      kept.append(tick)
  return kept, [f'{tick:,}' for tick in kept]


def lines(
  records_by_label: Mapping[str, Iterable[Mapping[str, Any]]],
) -> dict[str, list[Point]]:
  """Name of a line -> its points, by number of labels."""
  values: dict[tuple[str, str], dict[int, dict[Any, float]]] = defaultdict(
    lambda: defaultdict(dict)
  )
  for label, records in records_by_label.items():
    for record in records:
      params = record['params']
      if _has_labels(record) and params.get('selection') in (None, 'last'):
        draws = values[label, _name(record)][params['num_labels']]
        draws[params.get('draw')] = record['value']
  # Runs of one seed and model share the network from scratch and the untrained one: one line.
  shared: dict[tuple[str, str], list[str]] = defaultdict(list)
  for (label, what), amounts in values.items():
    shared[what, repr(sorted(amounts.items()))].append(label)
  return {
    f'{", ".join(labels)}: {what}': [
      Point(n, *interval(list(draws.values())))
      for n, draws in sorted(values[labels[0], what].items())
    ]
    for (what, _), labels in shared.items()
  }


def _has_labels(record: Mapping[str, Any]) -> bool:
  return record['protocol'] in PROTOCOLS and 'num_labels' in record['params']


def _name(record: Mapping[str, Any]) -> str:
  """What was trained, on which features."""
  params, kind = record['params'], record['features']
  if 'baseline' in params or record['protocol'] == 'finetune':
    what = 'fine-tuned' if kind == 'trained' else 'supervised from scratch'
    how = params.get('baseline') or params.get('preset')
  else:
    what, how = f'linear layer, {kind} features', params.get('preset') or params['solver']
  return f'{what} ({how}{"" if params.get("balanced", True) else ", labels not balanced"})'
