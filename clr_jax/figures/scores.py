"""The feature-transformation document's figures: statistics of scores while runs train.

Zhu et al., https://arxiv.org/abs/2108.02982, figures 3 and 4; the responses are the thesis's
figures 5.5, 5.7 and 5.8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from clr_jax.core.config_tree import check_keys, value_at
from clr_jax.core.errors import UserError
from clr_jax.figures import plots
from clr_jax.figures.score_histograms import histograms
from clr_jax.figures.telemetry import PREFIX, Run, finite, read_runs, say_missing, varied_keys


class Panel(NamedTuple):
  """One axes; a second metric has TCL's denominator."""

  title: str
  label: str
  keys: tuple[str, ...]
  log: bool = False


PANELS = (
  Panel('Mean of negative scores', 'cosine', ('telemetry/neg_mean',)),
  Panel('Variance of negative scores', 'cosine²', ('telemetry/neg_var',)),
  Panel('exp(s/T) of negatives', 'mean, no unit', ('telemetry/exp_neg',), log=True),
  Panel('Mean of positive scores', 'cosine', ('telemetry/pos_mean',)),
  Panel('Variance of positive scores', 'cosine²', ('telemetry/pos_var',)),
  Panel('exp(s/T) of positives', 'mean, no unit', ('telemetry/exp_pos',), log=True),
  Panel('Alignment (0 = views agree)', 'squared distance', ('telemetry/alignment',)),
  Panel('Uniformity (-4 = uniform)', 'log mean exp(-2 d²)', ('telemetry/uniformity',)),
  Panel('Spread of features (0 = collapse)', 'feature std · √dim', ('feature_std',)),
  Panel('Effective rank (RankMe)', 'dimensions', ('rankme',)),
  Panel('Online kNN', 'top-1 accuracy', ('online_knn_top1',)),
  Panel(
    'Response of positives',
    'mean |∂loss/∂(s/T)|',
    ('telemetry/positive_response', 'telemetry/positive_response_tcl'),
  ),
  Panel(
    'Response of negatives',
    'mean ∂loss/∂(s/T)',
    ('telemetry/negative_response', 'telemetry/negative_response_tcl'),
  ),
  Panel('Temperature', 'T', ('telemetry/temperature',)),
  Panel('Distance of the EMA target', '‖online - target‖ / ‖online‖', ('telemetry/ema_distance',)),
)
_OF_SCORES = 'telemetry/neg_mean'  # what all methods with negatives have
_COLUMNS = 3


def figures(
  directories: Sequence[str],
  out: str,
  *,
  by: str | None = None,
  last: float = 0.25,
  ridges: int = 12,
) -> list[epath.Path]:
  """Draws FILE-series.png, FILE-stacked.png and FILE-histograms.png, each with a CSV file.

  What runs do not have is left out, and a line on the terminal says so.

  Args:
    directories: workdirs of runs trained with telemetry.
    out: FILE.png.
    by: the config key against which the runs are stacked, such as 'method.momentum'; None takes the
      one in which they differ.
    last: the share of a run, at its end, over which the stacked values are means.
    ridges: histograms of a run at most, evenly spaced over training.

  Returns:
    The pictures and the CSV files.

  Raises:
    UserError: no telemetry, `by` is unknown or the same in all runs, or a bad number.
  """
  if not 0 < last <= 1:
    raise UserError(f'last={last} is a share of the run: give more than 0 and at most 1')
  if ridges < 1:
    raise UserError(f'ridges={ridges} draws no histogram: give at least 1')
  runs, missing = read_runs(directories)
  say_missing(runs, missing)
  key = _stack_key(runs, by)
  for run in runs:
    if not run.points(_OF_SCORES)[0]:
      print(f'{run.name}: {run.config.method.name} compares no negatives, its scores are not drawn')
  panels = [*PANELS, *_table_panels(runs)]
  path = epath.Path(out)
  written = series(runs, panels, path.with_name(f'{path.stem}-series.png'))
  if key is not None:
    target = path.with_name(f'{path.stem}-stacked.png')
    written += stacked(runs, panels, target, key=key, last=last)
  return written + histograms(runs, path.with_name(f'{path.stem}-histograms.png'), ridges=ridges)


def _table_panels(runs: Sequence[Run]) -> list[Panel]:
  """Mean and spread of the tables' rows: {table}_mean and {table}_std."""
  known = {key for panel in PANELS for key in panel.keys}
  names = dict.fromkeys(
    key.removesuffix('_mean')
    for run in runs
    for row in run.rows
    for key in row
    if key.startswith(PREFIX)
    and key.endswith('_mean')
    and f'{key.removesuffix("_mean")}_std' in row
    and key not in known
  )
  panels = []
  for name in names:
    told = name.removeprefix(PREFIX)
    panels.append(Panel(f'Table {told}: mean of the batch', told, (f'{name}_mean',)))
    panels.append(Panel(f'Table {told}: spread in the batch', f'std of {told}', (f'{name}_std',)))
  return panels


# ---------------------------------------------------------------- series
def series(runs: Sequence[Run], panels: Sequence[Panel], path: epath.Path) -> list[epath.Path]:
  """Every metric over training, a colour a run; the CSV has run, metric, step, value."""
  found = [p for p in panels if any(run.points(key)[0] for run in runs for key in p.keys)]
  if not found:
    raise UserError('the telemetry of these runs has no known metric: another version wrote it')
  figure, axes = _grid(len(found))
  table = []
  for panel, axis in zip(found, axes, strict=True):
    for i, run in enumerate(runs):
      for crossed, key in enumerate(panel.keys):
        steps, values = run.points(key)
        table += [(run.name, key, step, value) for step, value in zip(steps, values, strict=True)]
        marker = {'marker': 'o', 'ms': 3} if len(steps) < 15 else {}
        if crossed:
          marker = {'marker': 'x', 'ms': 5, 'markevery': max(len(steps) // 10, 1)}
        axis.plot(steps, values, lw=1.3, **plots.look(i), **marker)
    _finish(axis, panel, 'training step')
  _legend(figure, [(run.name, plots.look(i)) for i, run in enumerate(runs)], _has_tcl(runs))
  return [path, plots.save(figure, str(path), ('run', 'metric', 'step', 'value'), table)]


def _has_tcl(runs: Sequence[Run]) -> bool:
  return any(run.points(f'{PREFIX}positive_response_tcl')[0] for run in runs)


def _grid(count: int) -> tuple[Any, list[Any]]:
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  columns = min(count, _COLUMNS)
  rows = math.ceil(count / columns)
  figure = Figure(figsize=(3.7 * columns, 2.5 * rows + 0.5), dpi=110, layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
  for unused in axes[count:]:
    unused.remove()
  return figure, axes[:count]


def _finish(axis: Any, panel: Panel, xlabel: str) -> None:
  axis.set_title(panel.title, fontsize=10, pad=13)  # above the exponent of the y axis
  axis.set_xlabel(xlabel, fontsize=9)
  axis.set_ylabel(panel.label, fontsize=9)
  axis.tick_params(labelsize=8)
  axis.grid(alpha=0.3)
  drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.lines])
  drawn = drawn[np.isfinite(drawn)]
  if panel.log and drawn.size and drawn.min() > 0 and drawn.max() > 10 * drawn.min():
    axis.set_yscale('log')
  else:
    axis.ticklabel_format(axis='y', scilimits=(-3, 4), useOffset=False)
  axis.yaxis.get_offset_text().set_fontsize(8)


def _legend(figure: Any, names: Sequence[tuple[str, dict[str, Any]]], tcl: bool) -> None:
  """Below the panels, where it covers no data."""
  from matplotlib.lines import Line2D

  handles = [Line2D([], [], **style, label=name) for name, style in names]
  if tcl:
    handles.append(Line2D([], [], color='0.4', marker='x', label="responses: TCL's denominator"))
  widest = max(len(str(handle.get_label())) for handle in handles)
  columns = max(1, min(len(handles), int(figure.get_figwidth() * 12 / (widest + 8))))
  figure.legend(
    handles=handles, loc='outside lower center', ncols=columns, frameon=False, fontsize=9
  )


# ---------------------------------------------------------------- stacked
def _stack_key(runs: Sequence[Run], by: str | None) -> str | None:
  """The key to stack by, or None, with the reason on the terminal."""
  if by is None:
    if len(runs) == 1:
      return None
    keys = varied_keys(run.config for run in runs)
    if len(keys) == 1:
      return keys[0]
    some = ', '.join(keys[:6]) + (', ...' if len(keys) > 6 else '')
    why = f'the runs differ in {some}' if keys else 'the runs differ in no key'
    print(f'not stacked: {why}; choose one with --params.by=KEY')
    return None
  for run in runs:
    check_keys(run.config, [by], '--params.by=')
  values = [value_at(run.config, by) for run in runs]
  if all(value == values[0] for value in values):
    raise UserError(f'{by} is {values[0]} in every run: give --params.by another key, or more runs')
  return by


def stacked(
  runs: Sequence[Run], panels: Sequence[Panel], path: epath.Path, *, key: str, last: float
) -> list[epath.Path]:
  """The end of training against a config key; the CSV has run, KEY, metric, mean, std, rows.

  Means over the rows after step (1 - last) * the last one, bars: their standard deviation (ddof 0).
  Values of the key are evenly spaced, in order; runs that share one are joined by their mean.
  """
  ends = {run.name: run.rows[-1]['step'] for run in runs}
  if len(set(ends.values())) > 1:
    print('stacked runs end at different steps:', *(f'{k} {v}' for k, v in ends.items()))
  values = {run.name: _plain(value_at(run.config, key)) for run in runs}
  places = sorted(dict.fromkeys(values.values()), key=lambda v: (isinstance(v, str), v))
  metrics = [metric for panel in panels for metric in panel.keys]
  summaries = {(r.name, m): s for r in runs for m in metrics if (s := _end(r, m, last))}
  found = [p for p in panels if any((r.name, m) in summaries for r in runs for m in p.keys)]
  figure, axes = _grid(len(found))
  for panel, axis in zip(found, axes, strict=True):
    for second, metric in enumerate(panel.keys):
      points: dict[int, list[float]] = {}
      for run in runs:
        if (run.name, metric) not in summaries:
          continue
        mean, std, _ = summaries[run.name, metric]
        x = places.index(values[run.name])
        points.setdefault(x, []).append(mean)
        axis.errorbar(
          [x], [mean], [std], fmt='os'[second], ms=4, capsize=3, color=plots.COLOURS[second]
        )
      means = [(x, np.mean(points[x])) for x in sorted(points)]
      if means:
        axis.plot(*zip(*means, strict=True), lw=1.2, **plots.look(second), zorder=1)
    axis.set_xticks(range(len(places)), [_told(v) for v in places])
    axis.set_xlim(-0.5, len(places) - 0.5)
    _finish(axis, panel, key)
  share = f'mean over the last {last:.0%} of each run; bars: standard deviation over its rows'
  names = [(share, plots.look(0))]
  if _has_tcl(runs):
    names = [
      (f"{share} (responses: SupCon's denominator)", plots.look(0)),
      ("responses with TCL's denominator", plots.look(1)),
    ]
  _legend(figure, names, False)
  table = [(name, values[name], metric, *summary) for (name, metric), summary in summaries.items()]
  return [path, plots.save(figure, str(path), ('run', key, 'metric', 'mean', 'std', 'rows'), table)]


def _end(run: Run, metric: str, last: float) -> tuple[float, float, int] | None:
  """(mean, standard deviation, number) of a metric over the last rows of a run."""
  steps, values = run.points(metric)
  first = (1 - last) * run.rows[-1]['step']
  kept = finite(v for step, v in zip(steps, values, strict=True) if step > first)
  if not kept:
    return None
  return float(np.mean(kept)), float(np.std(kept)), len(kept)


def _plain(value: Any) -> Any:
  """Sortable and hashable: numbers and booleans as they are, anything else as text."""
  return value if isinstance(value, (bool, int, float)) else str(value)


def _told(value: Any) -> str:
  if isinstance(value, bool) or not isinstance(value, float):
    return str(value)
  return f'{value:g}'
