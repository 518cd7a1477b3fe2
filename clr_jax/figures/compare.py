"""Runs side by side: curves and results with intervals over seeds, and how their configs differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.figures import plots
from clr_jax.figures.curves import PANELS
from clr_jax.figures.few_label_curves import MARKERS
from clr_jax.figures.seeds import Group, curve, differences, groups, results
from clr_jax.rundir import table
from clr_jax.rundir.reader import Run, read

_FEW = 15  # points of a line that each have a marker


def figures(directories: Sequence[str], out: str, *, metric: str = 'top1') -> list[epath.Path]:
  """Draws the curves and results of runs; runs that differ only in their seed form a group.

  Lines and dots are means over the runs of a group that have the number, bands and bars their 95 %
  interval (Student's t over the runs). Of each run the results of its newest step count. The
  terminal gets the groups, the config keys in which they differ and all results.

  Args:
    directories: workdirs of runs; a line on the terminal names those that are no runs, have no
      metrics or results, or did not end.
    out: the picture.
    metric: of the results that are drawn: 'top1', 'robust_top1', ...

  Returns:
    The picture, the CSV file of the curves, and that of the results.

  Raises:
    UserError: no directory is a run, or none has metrics or results.
  """
  found = groups(_read(directories))
  records = results(found)
  rows = table.averaged(records)
  curves = {
    (key, group.name): points
    for panel in PANELS
    for key in panel.keys
    for group in found
    if (points := curve(group, key))
  }
  if not curves and not rows:
    raise UserError(f'{", ".join(directories)}: there are neither metrics nor results to compare')
  _print(found, records)
  drawn = _drawn(rows, metric)
  figure = _figure(found, curves, drawn, metric)
  path = epath.Path(out)
  header = ('group', 'metric', 'step', 'mean', 'half_interval_95', 'runs')
  data = plots.save(
    figure, out, header, [(g, k, step, *v) for (k, g), line in curves.items() for step, v in line]
  )
  measured = path.with_name(f'{path.stem}-results.csv')
  header = ('group', 'protocol', 'params', 'features', 'metric', 'mean', 'half_interval_95')
  plots.write_csv(
    measured,
    (*header, 'runs', 'step', 'data'),
    [(r.first['run'], *r[:4], *r.value, r.first['step'], r.first['data']) for r in rows],
  )
  return [path, data, measured]


# ---------------------------------------------------------------- terminal
def _read(directories: Sequence[str]) -> list[Run]:
  runs, missing = [], []
  directories = list(dict.fromkeys(directories))
  for directory in directories:
    try:
      runs.append(read(directory, directories))
    except UserError as error:
      missing.append(f'left out: {error}')
  if not runs:
    raise UserError(missing[0].removeprefix('left out: '))
  for run in runs:
    lacks = [] if run.status == 'finished' else [run.status]
    lacks += [] if run.rows else ['it has no metrics']
    lacks += [] if run.records else ['it has no results (clr-jax evaluate measures them)']
    if lacks:
      missing.append(f'{run.name}: {"; ".join(lacks)}')
  for line in missing:
    print(line, flush=True)
  return runs


def _print(found: Sequence[Group], records: Sequence[dict[str, Any]]) -> None:
  for group in found:
    seeds = [run.get('seed') for run in group.runs]
    names = ', '.join(run.name for run in group.runs)
    again = '' if len(set(seeds)) == len(seeds) else '; equal seeds are no independent repetitions'
    print(f'{group.name}: {names} (seed {", ".join(map(str, seeds))}{again})')
  if differing := differences(found):
    print(table.aligned([('key', *(group.name for group in found)), *differing]))
  if records:
    print(table.format_table(records), flush=True)


def _drawn(rows: Sequence[table.Row], metric: str) -> list[table.Row]:
  """The rows of the metric in settings that several groups have; if there are none, all."""
  own = [row for row in rows if row.metric == metric]
  if rows and not own:
    names = ', '.join(dict.fromkeys(row.metric for row in rows))
    print(f'no result is {metric!r} and none is drawn: choose --params.metric of {names}')
  count = Counter(map(_setting, own))
  shared = [row for row in own if count[_setting(row)] > 1]
  if shared and len(shared) < len(own):
    print(f'{len(own) - len(shared)} results that one group alone has are not drawn')
  return shared or own


# ---------------------------------------------------------------- picture
def _figure(found: Sequence[Group], curves: dict, drawn: Sequence[table.Row], metric: str) -> Any:
  """Curves in the first row, a dot plot of results below."""
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  keys = list(dict.fromkeys(key for key, _ in curves))
  settings = list(dict.fromkeys(map(_setting, drawn)))
  heights = [3.2] * bool(keys) + [1.1 + 0.1 * (2 + len(found)) * len(settings)] * bool(settings)
  size = (max(3.5 * len(keys), 8.0), sum(heights) + 0.25 * (1 + len(found) // 3))
  figure = Figure(figsize=size, dpi=110, layout='constrained')
  # Of their own, or the names of the settings would push the curves aside.
  parts = iter(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel())
  looks = {
    group.name: {**plots.look(i), 'marker': MARKERS[i % len(MARKERS)]}
    for i, group in enumerate(found)
  }
  axes = list(next(parts).subplots(1, len(keys), squeeze=False).ravel()) if keys else []
  for key, axis in zip(keys, axes, strict=True):
    _curve_panel(axis, key, curves, looks)
  if settings:
    axes.append(next(parts).subplots())
    _dots(axes[-1], drawn, settings, looks, metric)
  named = {}
  for axis in axes:
    handles, names = axis.get_legend_handles_labels()
    named |= dict(zip(names, handles, strict=True))
  style = {'loc': 'outside lower center', 'frameon': False, 'fontsize': 8}
  figure.legend(named.values(), named.keys(), ncols=min(3, len(named)), **style)
  return figure


def _curve_panel(axis: Any, key: str, curves: dict, looks: dict) -> None:
  panel = next(panel for panel in PANELS if key in panel.keys)
  for name, look in looks.items():
    if not (points := curves.get((key, name))):
      continue
    steps = np.array([step for step, _ in points])
    mean, half, _ = np.array([value for _, value in points]).T
    few = {'ms': 3} if len(points) < _FEW else {'marker': None}
    axis.plot(steps, mean, label=name, **(look | few))
    half, colour = np.nan_to_num(half), look['color']  # a single run has no interval
    if len(points) < _FEW:  # a band of one point could not be seen
      axis.errorbar(steps, mean, half, ls='', color=colour, capsize=2, elinewidth=0.8)
    else:
      axis.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.2, lw=0)
  axis.set(xlabel='training step', ylabel=panel.label)
  axis.set_title(panel.keys[key], fontsize=9)
  axis.grid(alpha=0.3)


def _setting(row: table.Row) -> str:
  return f'{row.protocol} {row.params}, {row.features}, {row.first["data"]}'


def _dots(
  axis: Any, drawn: Sequence[table.Row], settings: Sequence[str], looks: dict, metric: str
) -> None:
  """One line for each setting, in it one dot for each group."""
  unit = 100 if metric.endswith('top1') else 1
  offsets = np.linspace(-0.3, 0.3, len(looks)) if len(looks) > 1 else [0.0]
  for offset, (name, look) in zip(offsets, looks.items(), strict=True):
    own = [row for row in drawn if row.first['run'] == name]
    if not own:
      continue
    y = [settings.index(_setting(row)) + offset for row in own]
    mean, half = (unit * np.array(v) for v in zip(*(row.value[:2] for row in own), strict=True))
    style = {'color': look['color'], 'marker': look['marker'], 'ms': 4}
    axis.errorbar(mean, y, xerr=np.nan_to_num(half), ls='', capsize=2, label=name, **style)
  usual = drawn[0].first['data']
  names = [setting.removesuffix(f', {usual}') for setting in settings]
  axis.set_yticks(range(len(settings)), names, fontsize=7)
  axis.set_ylim(len(settings) - 0.5, -0.5)
  for i in range(1, len(settings)):
    axis.axhline(i - 0.5, color='#DDDDDD', lw=0.6)
  axis.grid(alpha=0.3, axis='x')
  label = 'top-1 accuracy' if metric == 'top1' else metric
  axis.set(xlabel=f'{label}, %' if unit == 100 else label)
  axis.set_title(f'Results: mean and 95 % interval over runs ({usual})', fontsize=9)
