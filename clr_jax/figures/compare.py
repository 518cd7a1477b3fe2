"""Comparison of runs: curves and results with intervals over seeds, and config differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from clr_jax.core.intervals import Interval
from clr_jax.core.names import check_name
from clr_jax.figures.analysis.seed_groups import (
  Group,
  differing_keys,
  group_results,
  mean_curve,
  seed_groups,
)
from clr_jax.figures.drawing.data import (
  STEP_AXIS,
  Axis,
  Block,
  FigureData,
  Figures,
  Line,
  Panel,
  Table,
)
from clr_jax.figures.drawing.metric_panels import METRIC_PANELS
from clr_jax.rundir import table
from clr_jax.rundir.reader import Run

Curve = list[tuple[int, Interval]]
_METRIC = 'top1'


def compare(runs: Sequence[Run], *, metric: str = _METRIC) -> Figures:
  """Figure with curves in the first row and a dot plot of the results below.

  Runs that differ only in the seed form a group. Lines and dots are means over the runs of a group
  that have the number, bands and bars the 95 % interval (Student's t over the runs). Only the
  results of each run's newest step are used. The text lists the groups, the differing config keys
  and all results.

  Args:
    runs: runs to compare.
    metric: metric of the results in the dot plot: 'top1', 'robust_top1', ...

  Raises:
    UserError: a metric that none of the results has.
  """
  groups = seed_groups(runs)
  records = group_results(groups)
  rows = table.averaged(records)
  _check_metric(rows, metric)
  curves = {
    (name, group.name): points
    for panel in METRIC_PANELS
    if 'compare' in panel.figures
    for name in panel.metrics
    for group in groups
    if (points := mean_curve(group, name))
  }
  missing = [sentence for run in runs if (sentence := _lacks(run))]
  if not curves and not rows:
    return Figures([], missing)
  shown, remarks = select_results(rows, metric)
  looks = {group.name: i for i, group in enumerate(groups)}
  panels = _curve_panels(curves, looks)
  blocks = [Block(panels, len(panels), (max(3.5, 8 / len(panels)), 3.2))] if panels else []
  if shown:
    dots = _dot_panel(shown, looks, metric)
    blocks.append(Block([dots], 1, (8.0, 1.1 + 0.1 * (2 + len(groups)) * len(dots.y.ticks))))
  figure = FigureData('', blocks, {'': _curve_table(curves), 'results': _result_table(rows)})
  return Figures([figure], [*missing, *remarks], _describe(groups, records))


def _check_metric(rows: Sequence[table.Row], metric: str) -> None:
  known = list(dict.fromkeys(row.metric for row in rows))
  if known and metric not in known and metric != _METRIC:  # the default may be missing
    check_name(known, metric, 'metric of the results')


def select_results(rows: Sequence[table.Row], metric: str) -> tuple[list[table.Row], list[str]]:
  """Selects the metric's rows for settings that several groups share, or all; lists omissions."""
  own = [row for row in rows if row.metric == metric]
  if rows and not own:
    names = ', '.join(dict.fromkeys(row.metric for row in rows))
    return [], [f'all results, for none is {metric!r}: choose --params.metric of {names}']
  count = Counter(map(_setting, own))
  shared = [row for row in own if count[_setting(row)] > 1]
  if not shared or len(shared) == len(own):
    return own, []
  return shared, [f'{len(own) - len(shared)} results that only one group has']


def _setting(row: table.Row) -> str:
  return f'{row.protocol} {row.params}, {row.features}, {row.first["data"]}'


def _lacks(run: Run) -> str:
  """Missing parts of a run; '' if it is complete."""
  lacks = [] if run.status == 'finished' else [run.status]
  lacks += [] if run.metrics else ['it has no metrics']
  lacks += [] if run.results else ['it has no results (clr-jax evaluate measures them)']
  return f'parts of {run.name}: {"; ".join(lacks)}' if lacks else ''


def _describe(groups: Sequence[Group], records: Sequence[Mapping]) -> str:
  lines = []
  for group in groups:
    seeds = [run.seed for run in group.runs]
    names = ', '.join(run.name for run in group.runs)
    again = '' if len(set(seeds)) == len(seeds) else '; equal seeds are no independent repetitions'
    lines.append(f'{group.name}: {names} (seed {", ".join(map(str, seeds))}{again})')
  if differing := differing_keys([group.runs[0] for group in groups]):
    header = ('key', *(group.name for group in groups))
    lines.append(table.aligned([header, *((key, *values) for key, values in differing)]))
  if records:
    lines.append(table.format_table(records))
  return '\n'.join(lines)


# ---------------------------------------------------------------- panels
def _curve_panels(curves: Mapping[tuple[str, str], Curve], looks: Mapping[str, int]) -> list[Panel]:
  """Makes a panel per metric."""
  found = {name: panel for panel in METRIC_PANELS for name in panel.metrics}
  panels = []
  for metric in dict.fromkeys(metric for metric, _ in curves):
    lines = []
    for name, look in looks.items():
      if points := curves.get((metric, name)):
        values = [value for _, value in points]
        means, halves = (found[metric].scaled([v[i] for v in values]) for i in (0, 1))
        lines.append(Line(name, look, [step for step, _ in points], means, y_half=halves))
    panel = found[metric]
    panels.append(Panel(panel.title, STEP_AXIS, Axis(panel.label), lines, panel.note))
  return panels


def _dot_panel(rows: Sequence[table.Row], looks: Mapping[str, int], metric: str) -> Panel:
  """Makes a panel with a row per setting and a dot per group."""
  settings = list(dict.fromkeys(map(_setting, rows)))
  percent = table.is_accuracy(metric)
  unit = 100 if percent else 1
  offsets = np.linspace(-0.3, 0.3, len(looks)) if len(looks) > 1 else [0.0]
  dots = []
  for offset, (name, look) in zip(offsets, looks.items(), strict=True):
    if own := [row for row in rows if row.first['run'] == name]:
      y = [settings.index(_setting(row)) + offset for row in own]
      means, halves = ([unit * row.value[i] for row in own] for i in (0, 1))
      dots.append(Line(name, look, means, y, x_half=halves, joined=False))
  label = ('top-1 accuracy' if metric == 'top1' else metric) + ', %' * percent
  usual = rows[0].first['data']
  names = [setting.removesuffix(f', {usual}') for setting in settings]
  limits = -0.6, len(settings) - 0.4
  y_axis = Axis('', limits=limits, ticks=dict(enumerate(names)), reversed=True)
  return Panel(f'Results: mean and 95 % interval over runs ({usual})', Axis(label), y_axis, dots)


# ---------------------------------------------------------------- tables
def _curve_table(curves: Mapping[tuple[str, str], Curve]) -> Table:
  header = ('group', 'metric', 'step', 'mean', 'half_interval_95', 'runs')
  rows = [(group, m, step, *v) for (m, group), line in curves.items() for step, v in line]
  return Table(header, rows)


def _result_table(rows: Sequence[table.Row]) -> Table:
  header = ('group', 'protocol', 'params', 'features', 'metric', 'mean', 'half_interval_95')
  cells = [(r.first['run'], *r[:4], *r.value, r.first['step'], r.first['data']) for r in rows]
  return Table((*header, 'runs', 'step', 'data'), cells)
