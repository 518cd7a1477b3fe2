"""Table of metrics over training, with panels, titles and units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clr_jax.figures.drawing.data import (
  STEP_AXIS,
  Axis,
  Line,
  Panel,
  Table,
  finite_range,
  spans_decades,
)
from clr_jax.figures.drawing.palette import COLORS, DASHES
from clr_jax.rundir.reader import Run
from clr_jax.wrappers.telemetry import PREFIX, STEPS

GRADIENT_NORM = f'{PREFIX}grad_norm/'
_NOT_DRAWN = ('step', 'time', STEPS)
_STATISTICS = {'mean': 'mean of the batch', 'std': 'spread in the batch'}


class MetricPanel(NamedTuple):
  """Metrics drawn in one panel.

  Attributes:
    title: title of the panel.
    label: label of the y axis, with the unit.
    metrics: {name: legend entry}; '' if the title is enough.
    figures: PNG figures with the panel; the report has all panels.
    log: logarithmic axis if the values span decades.
    note: data over which the metrics are computed.
  """

  title: str
  label: str
  metrics: Mapping[str, str]
  figures: tuple[str, ...] = ()
  log: bool = False
  note: str = ''

  def scaled(self, values: Sequence[float]) -> list[float]:
    """Values of the metrics in the unit of the label."""
    return [100 * value for value in values] if self.label == PERCENT else [*values]


def _telemetry(
  title: str, label: str, name: str, *, log: bool = False, note: str = ''
) -> MetricPanel:
  return MetricPanel(title, label, {f'{PREFIX}{name}': ''}, ('scores',), log, note)


def _responses(kind: str, label: str) -> MetricPanel:
  names = {'': '', '_tcl': "TCL's denominator"}
  metrics = {f'{PREFIX}{kind}_response{end}': legend for end, legend in names.items()}
  return MetricPanel(f'Response of {kind}s', label, metrics, ('scores',), log=True)


PERCENT = 'top-1 accuracy, %'
_CURVES = ('curves', 'compare')
METRIC_PANELS = (
  MetricPanel('Loss', 'loss', {'loss': ''}, _CURVES, note='mean over log_every steps'),
  MetricPanel(
    'Objective',
    'objective',
    {'objective': ''},
    ('curves',),
    note='minimized; the loss has its gradient only',
  ),
  MetricPanel(
    'Online kNN accuracy',
    PERCENT,
    {'online_knn_top1': ''},
    (*_CURVES, 'scores'),
    note='at most 1,024 test images',
  ),
  MetricPanel(
    'Online probe accuracy',
    PERCENT,
    {'online_probe_top1': ''},
    _CURVES,
    note='at most 1,024 test images',
  ),
  MetricPanel(
    'Effective rank (collapse monitor)',
    'RankMe',
    {'rankme': ''},
    (*_CURVES, 'scores'),
    note='at most 2,048 training images',
  ),
  MetricPanel(
    'Spread of features (0 = collapse)', 'feature std · √dim', {'feature_std': ''}, ('scores',)
  ),
  MetricPanel('Learning rate', 'learning rate', {'learning_rate': ''}),
  MetricPanel(
    'Accuracy on the training views',
    PERCENT,
    {'probe_top1': 'online probe', 'train_top1': "the method's own classifier"},
  ),
  MetricPanel(
    'Loss of the online probe', 'cross-entropy, nats', {'probe_loss': ''}, note='training views'
  ),
  MetricPanel('Size of the updates', 'L2 norm', {'update_norm': ''}, note='all parameters'),
  MetricPanel('Throughput', 'training images / s', {'samples_per_second': ''}),
  MetricPanel('Waiting for data', 'share of the time', {'data_wait_share': ''}),
  MetricPanel('Time of the online evaluation', 'seconds', {'online_seconds': ''}),
  _telemetry('Mean of negative scores', 'score', 'neg_mean'),
  _telemetry('Variance of negative scores', 'score², within an anchor', 'neg_var', log=True),
  _telemetry('exp(s/T) of negatives', 'mean', 'exp_neg', log=True),
  _telemetry('Mean of positive scores', 'score', 'pos_mean'),
  _telemetry('Variance of positive scores', 'score², over the anchors', 'pos_var', log=True),
  _telemetry('exp(s/T) of positives', 'mean', 'exp_pos', log=True),
  _telemetry('Alignment (0 = views agree)', 'squared distance', 'alignment', log=True),
  _telemetry('Uniformity (-4 = uniform)', 'log mean exp(-2 d²)', 'uniformity'),
  _responses('positive', 'mean |∂loss/∂(s/T)|'),
  _responses('negative', 'mean ∂loss/∂(s/T)'),
  _telemetry('Temperature', 'T', 'temperature', note='mean over anchors'),
  _telemetry('Distance of the EMA target', '‖online - target‖ / ‖online‖', 'ema_distance'),
)


def metric_panels(runs: Sequence[Run]) -> list[MetricPanel]:
  """Panels of the table, and panels for all other metrics of these runs.

  Statistics of tables ({table}_mean, {table}_std) and gradient norms have a title; other metrics
  use their names.
  """
  names = dict.fromkeys(name for run in runs for row in run.metrics for name in row)
  known = {name for panel in METRIC_PANELS for name in panel.metrics}
  panels = list(METRIC_PANELS)
  for name in names:
    short = name.removeprefix(PREFIX)
    table, _, statistic = short.rpartition('_')
    if name in known or name in _NOT_DRAWN:
      continue
    if name.startswith(GRADIENT_NORM):
      title = f'Gradient norm: {name.removeprefix(GRADIENT_NORM)}'
      panels.append(MetricPanel(title, 'L2 norm', {name: ''}, ('gradients',), log=True))
    elif statistic in _STATISTICS and {f'{PREFIX}{table}_{s}' for s in _STATISTICS} <= names.keys():
      title = f'Table {table}: {_STATISTICS[statistic]}'
      panels.append(MetricPanel(title, f'{statistic} of {table}', {name: ''}, ('scores',)))
    else:
      figures = ('scores',) if name.startswith(PREFIX) else ()
      panels.append(MetricPanel(short, short, {name: ''}, figures))
  return panels


def with_telemetry(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
  """Returns (the runs with telemetry, a sentence for each of the others)."""
  measured = [run for run in runs if any(k.startswith(PREFIX) for row in run.metrics for k in row)]
  missing = [
    f'{run.directory} has no telemetry: train with --config.telemetry.enabled=True; the same '
    'command with this flag adds it to a run that has not ended'
    for run in runs
    if run not in measured
  ]
  return measured, missing


def is_telemetry(panel: MetricPanel) -> bool:
  """True if the metrics of a panel come from telemetry."""
  return all(name.startswith(PREFIX) for name in panel.metrics)


def series_panels(
  runs: Sequence[Run], panels: Iterable[MetricPanel], *, points: bool = False
) -> list[Panel]:
  """Panels over training for which any of the runs has a number.

  Colors distinguish runs and dashes metrics; with one run, colors distinguish metrics. Metrics that
  were measured once are omitted, see `unchanging`, and so are constant ones if there are others.

  Args:
    runs: the runs to draw.
    panels: the candidates.
    points: show metrics that were measured once if there are no others.
  """
  made = [panel for panel in (_series(runs, panel) for panel in panels) if panel.marks]
  curves = [panel for panel in made if any(len(line.x) > 1 for line in panel.marks_of(Line))]
  several = [panel for panel in curves if len(_values(panel)) > 1]
  return several or curves or (made if points else [])


def unchanging(runs: Sequence[Run], panels: Iterable[MetricPanel]) -> list[str]:
  """A sentence for each panel with a single value, or with one measurement per run."""
  panels = list(panels)
  drawn = {panel.title for panel in series_panels(runs, panels)}
  left_out = [_series(runs, panel) for panel in panels if panel.title not in drawn]
  return [f'{panel.title}, which is {_said(panel)}' for panel in left_out if panel.marks]


def _said(panel: Panel) -> str:
  """Text such as '0.5 throughout', '0.5 at step 20', 'a: 0.5 at step 20, b: 0.6 at step 20'."""
  lines = panel.marks_of(Line)
  if any(len(line.x) > 1 for line in lines):
    return f'{_values(panel).pop():g} throughout'
  name = (lambda line: f'{line.name}: ') if len(lines) > 1 else lambda line: ''
  return ', '.join(f'{name(line)}{line.y[0]:.5g} at step {line.x[0]}' for line in lines)


def _values(panel: Panel) -> set[float]:
  """Distinct numbers of a panel, with NaN at most once."""
  numbers = (float(y) for line in panel.marks_of(Line) for y in line.y)
  return {math.nan if math.isnan(y) else y for y in numbers}


def _series(runs: Sequence[Run], panel: MetricPanel) -> Panel:
  several = len(runs) > 1
  few = len(runs) <= len(COLORS) and len(panel.metrics) <= len(DASHES)
  stride = (len(COLORS) if few else len(runs)) if several else 1
  lines = []
  for i, run in enumerate(runs):
    for j, (metric, legend) in enumerate(panel.metrics.items()):
      steps, values = run.series(metric)
      if steps:
        parts = [run.name if several or not legend else '', legend]
        name = ': '.join(filter(None, parts))
        lines.append(Line(name, i + stride * j, steps, panel.scaled(values)))
  log = panel.log and spans_decades(line.y for line in lines)
  return Panel(panel.title, STEP_AXIS, Axis(panel.label, log), lines, panel.note)


def accuracy_limits(lines: Sequence[Line]) -> tuple[float, float]:
  """Limits of an axis for accuracies in percent with intervals, as far as these are possible."""
  ends = []
  for line in lines:
    half = np.nan_to_num(np.zeros(len(line.y)) if line.y_half is None else np.asarray(line.y_half))
    ends += [np.asarray(line.y) - half, np.asarray(line.y) + half]
  low, high = finite_range(ends, (0.0, 100.0))
  low, high = max(low, 0.0), min(high, 100.0)
  room = max(0.05 * (high - low), 0.5)
  return low - room, high + room


def series_table(runs: Sequence[Run], panels: Iterable[MetricPanel]) -> Table:
  """Table of all numbers of the panels: run, metric, step, value."""
  rows = [
    (run.name, metric, step, value)
    for panel in panels
    for run in runs
    for metric in panel.metrics
    for step, value in zip(*run.series(metric), strict=True)
  ]
  return Table(('run', 'metric', 'step', 'value'), rows)
