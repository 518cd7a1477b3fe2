"""Statistics of scores during training, as in the feature-transformation paper.

Zhu et al., https://arxiv.org/abs/2108.02982, figures 3 and 4; the responses are the thesis's
figures 5.5, 5.7 and 5.8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clr_jax.core.bounds import Pictures, Share
from clr_jax.core.config_tree import check_keys, value_at
from clr_jax.core.errors import UserError
from clr_jax.figures.analysis.score_histograms import histogram_panels, histogram_table
from clr_jax.figures.analysis.seed_groups import differing_keys
from clr_jax.figures.drawing.data import (
  Axis,
  Block,
  FigureData,
  Figures,
  Histograms,
  Line,
  Panel,
  Table,
  spans_decades,
)
from clr_jax.figures.drawing.metric_panels import (
  MetricPanel,
  is_telemetry,
  metric_panels,
  series_panels,
  series_table,
  unchanging,
  with_telemetry,
)
from clr_jax.rundir.reader import Run
from clr_jax.wrappers.telemetry import PREFIX

_OF_NEGATIVES = f'{PREFIX}neg_mean'  # a metric of all methods with negatives
_SIZE = (3.7, 2.5)


def scores(
  runs: Sequence[Run],
  *,
  by: str | None = None,
  last: Share = 0.25,
  ridges: Pictures = 12,
) -> Figures:
  """Draws three figures of telemetry: series, stacked and histograms.

  Args:
    runs: runs with telemetry; others are left out.
    by: config key of the x axis of stacked values, such as 'method.momentum'; None = the key in
      which the runs differ.
    last: final share of a run over which stacked values are averaged.
    ridges: largest number of histograms per run, evenly spaced over training.

  Raises:
    UserError: `by` is unknown or the same in all runs.
  """
  measured, missing = with_telemetry(runs)
  if not measured:
    return Figures([], missing)
  key, reason = _stack_key(measured, by)
  missing += [f'stacked values, for {reason}'] if reason else []
  missing += [
    f'scores of {run.name}: {run.method} compares no negatives'
    for run in measured
    if not run.series(_OF_NEGATIVES)[0]
  ]
  panels = [panel for panel in metric_panels(measured) if 'scores' in panel.figures]
  panels = sorted(panels, key=lambda panel: not is_telemetry(panel))
  missing += unchanging(measured, panels)
  block = Block(series_panels(measured, panels, points=True), 3, _SIZE)
  figures, text = [FigureData('series', [block], {'': series_table(measured, panels)})], ''
  if key is not None:
    figures.append(_stacked(measured, panels, key, last))
    ends = {run.name: run.metrics[-1]['step'] for run in measured}
    if len(set(ends.values())) > 1:
      text = 'stacked runs end at different steps: ' + ' '.join(f'{k} {v}' for k, v in ends.items())
  columns, left_out = histogram_panels(measured, ridges)
  if columns:
    most = max(len(mark.steps) for panel in columns for mark in panel.marks_of(Histograms))
    block = Block(columns, 5, (3.2, 0.34 * most + 1.9))
    title = 'Each ridge is scaled to its own maximum'
    figures.append(FigureData('histograms', [block], {'': histogram_table(columns)}, title))
  return Figures(figures, missing + left_out, text)


# ---------------------------------------------------------------- stacked
def _stack_key(runs: Sequence[Run], by: str | None) -> tuple[str | None, str]:
  """Returns (key for the x axis, '') or (None, the reason)."""
  if by is not None:
    for run in runs:
      check_keys(run.config, [by], '--params.by=')
    values = [value_at(run.config, by) for run in runs]
    if all(value == values[0] for value in values):
      raise UserError(
        f'{by} is {values[0]} in every run: give --params.by another key, or more runs'
      )
    return by, ''
  keys = [key for key, values in differing_keys(runs) if 'unset' not in values]
  if len(keys) == 1 or len(runs) == 1:
    return (keys or [None])[0], ''
  some = ', '.join(keys[:6]) + (', ...' if len(keys) > 6 else '')
  found = f'in {some}' if keys else 'in no key'
  return None, f'the runs differ {found}; choose one with --params.by=KEY'


def _stacked(
  runs: Sequence[Run], panels: Sequence[MetricPanel], key: str, last: float
) -> FigureData:
  """Panels of final values against a config key.

  Dots are means over the rows after step (1 - last) * the last step, bars their standard deviation
  (ddof 0). Values of the key are evenly spaced, in order; a line joins their means.
  """
  values = {run.name: _plain(value_at(run.config, key)) for run in runs}
  places = sorted(dict.fromkeys(values.values()), key=lambda v: (isinstance(v, str), v))
  at = {name: places.index(value) for name, value in values.items()}
  metrics = [metric for panel in panels for metric in panel.metrics]
  ends = {m: {run.name: end for run in runs if (end := _end(run, m, last))} for m in metrics}
  ticks = {i: f'{v:g}' if type(v) is float else str(v) for i, v in enumerate(places)}
  x = Axis(key, limits=(-0.5, len(places) - 0.5), ticks=ticks)
  drawn = []
  for panel in panels:
    lines = []
    for look, (metric, legend) in enumerate(panel.metrics.items()):
      if ends[metric]:
        lines += _joined_means(legend, look, at, ends[metric])
    if lines:
      log = panel.log and spans_decades(line.y for line in lines)
      drawn.append(Panel(panel.title, x, Axis(panel.label, log), lines))
  rows = [(name, values[name], m, *end) for m, own in ends.items() for name, end in own.items()]
  order = {run.name: i for i, run in enumerate(runs)}
  rows = sorted(rows, key=lambda row: order[row[0]])
  header = ('run', key, 'metric', 'mean', 'std', 'rows')
  title = f'Last {last:.0%} of each run: mean and standard deviation over its rows'
  return FigureData('stacked', [Block(drawn, 3, _SIZE)], {'': Table(header, rows)}, title)


def _joined_means(
  name: str, look: int, at: Mapping[str, int], ends: Mapping[str, tuple[float, float, int]]
) -> list[Line]:
  """Dots with deviations for each run, and a line through the means of each value."""
  x = [at[run] for run in ends]
  means, stds, _ = zip(*ends.values(), strict=True)
  places = sorted(set(x))
  joined = [np.mean([m for m, own in zip(means, x, strict=True) if own == p]) for p in places]
  dots = Line(name, look, x, means, y_half=stds, joined=False)
  return [dots, Line(name, look, places, joined, dots=False)]


def _end(run: Run, metric: str, last: float) -> tuple[float, float, int] | None:
  """(mean, standard deviation, number) of finite values in the last part of a run."""
  first = (1 - last) * run.metrics[-1]['step']
  pairs = zip(*run.series(metric), strict=True)
  kept = [value for step, value in pairs if step > first and math.isfinite(value)]
  return (float(np.mean(kept)), float(np.std(kept)), len(kept)) if kept else None


def _plain(value: Any) -> Any:
  """Makes a value sortable and hashable: keeps numbers and booleans, converts others to text."""
  return value if isinstance(value, (bool, int, float)) else str(value)
