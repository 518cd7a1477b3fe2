"""Figures over training: curves, telemetry, histograms of scores."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from clr_jax.figures import curves as pictures
from clr_jax.figures import plots
from clr_jax.figures.curves import Panel
from clr_jax.report import page
from clr_jax.rundir.reader import Run
from clr_jax.wrappers.telemetry import PREFIX, STEPS

MOST_COLUMNS = 300  # of a heat map
STEP = 'training step'
_LOG_FROM = 100  # ratio of the largest and the smallest value from which _LOG axes are logarithmic
_LOG = ('variance', 'exp-scores', 'responses', 'alignment', 'gradient norm')  # words of titles

_PANELS = (
  *pictures.PANELS,
  Panel('Learning rate', 'learning rate', {'learning_rate': 'learning rate'}),
  Panel(
    'Accuracy on the training views',
    'top-1 accuracy',
    {'probe_top1': 'online probe', 'train_top1': "the method's own classifier"},
  ),
  Panel('Loss of the online probe', 'cross-entropy, nats', {'probe_loss': 'on training views'}),
  Panel('Spread of the features', 'standard deviation', {'feature_std': 'mean over the features'}),
  Panel('Size of the updates', 'L2 norm', {'update_norm': 'update of all parameters'}),
  Panel('Throughput', 'images / s', {'samples_per_second': 'training images'}),
  Panel('Waiting for data', 'share of the time', {'data_wait_share': 'since the last row'}),
  Panel('Time of the online evaluation', 'seconds', {'online_seconds': 'of one evaluation'}),
)
_TELEMETRY_PANELS = (
  Panel('Mean of the scores', 'score', {'pos_mean': 'positives', 'neg_mean': 'negatives'}),
  Panel(
    'Variance of the scores',
    'squared score',
    {'pos_var': 'positives, over the anchors', 'neg_var': 'negatives, within an anchor'},
  ),
  Panel(
    'Mean exp-scores',
    'exp(score / temperature)',
    {'exp_pos': 'positives', 'exp_neg': 'negatives'},
  ),
  Panel(
    'Responses',
    'mean response',
    {
      'positive_response': 'positives',
      'negative_response': 'negatives',
      'positive_response_tcl': "positives, TCL's denominator",
      'negative_response_tcl': "negatives, TCL's denominator",
    },
  ),
  Panel('Alignment', 'squared distance of a pair', {'alignment': 'mean over pairs'}),
  Panel('Uniformity', 'log mean exp(-2 d²)', {'uniformity': 'mean over views'}),
  Panel('Distance to the EMA target', '‖online - target‖ / ‖online‖', {'ema_distance': 'encoder'}),
  Panel('Temperature', 'temperature', {'temperature': 'mean over anchors'}),
)
_HISTOGRAMS = {'neg_hist': 'negative', 'pos_hist': 'positive'}
# White to Okabe and Ito's blue and beyond: one hue, ever darker.
_SHADES = [[0, '#ffffff'], [0.25, '#9ad0f0'], [0.6, '#0072B2'], [1, '#00263d']]


def curves(content: page.Page, runs: Sequence[Run]) -> str:
  """All metrics but telemetry's, each panel with all runs that have it."""
  html = _without(runs, lambda run: bool(run.rows), 'no metrics: it stopped before log_every steps')
  known = {key for panel in _PANELS for key in panel.keys}
  others = [
    Panel(key, key, {key: key})
    for key in _keys(runs)
    if not key.startswith(PREFIX) and key not in known
  ]
  made = [_figure(content, runs, panel, '') for panel in (*_PANELS, *others)]
  return html + page.figures(made)


def telemetry(content: page.Page, runs: Sequence[Run]) -> str:
  """Series, norms of gradients, and histograms as heat maps, of the runs that have them."""
  html = _without(
    runs,
    lambda run: any(key.startswith(PREFIX) for key in _keys([run])),
    'no telemetry: train with --config.telemetry.enabled=True',
  )
  keys = [key.removeprefix(PREFIX) for key in _keys(runs) if key.startswith(PREFIX)]
  groups = [key for key in keys if key.startswith('grad_norm/')]
  known = {key for panel in _TELEMETRY_PANELS for key in panel.keys} | {*groups, *_HISTOGRAMS}
  others = [
    Panel(key, key, {key: key}) for key in keys if key not in known and PREFIX + key != STEPS
  ]
  norms = Panel(
    'Gradient norm of each parameter group',
    'L2 norm of the gradient',
    {key: key.removeprefix('grad_norm/') for key in groups},
  )
  made = [_figure(content, runs, p, PREFIX) for p in (*_TELEMETRY_PANELS, norms, *others)]
  maps, sentences = [], []
  for run in runs:
    for key, kind in _HISTOGRAMS.items():
      if any(PREFIX + key in row for row in run.rows):
        made_map = heat_map(run, PREFIX + key, f'{run.name}: {kind} scores')
        if isinstance(made_map, str):
          sentences.append(page.missing(made_map))
        else:
          maps.append(content.figure(made_map))
  return html + page.figures(made) + ''.join(sentences) + page.figures(maps)


def heat_map(run: Run, key: str, title: str) -> page.Figure | str:
  """The share of each step's scores in each bin; a sentence where the edges are not known."""
  lowest, highest = run.get('telemetry.lowest'), run.get('telemetry.highest')
  bins = run.get('telemetry.bins')
  if lowest is None or highest is None or bins is None:
    return f'{title}: the config lacks the edges of the histogram (telemetry.lowest, highest, bins)'
  points = [(r['step'], r[key]) for r in run.rows if len(r.get(key) or ()) == bins + 2]
  points = page.thinned([p for p in points if sum(p[1]) > 0], MOST_COLUMNS)
  if not points:
    return f'{title}: no step has counts in the {bins} bins that the config names'
  counts = np.array([c for _, c in points], np.float64).T  # [bins + 2, steps]
  share = counts / counts.sum(0, keepdims=True)
  edges = np.linspace(lowest, highest, bins + 1)
  width = edges[1] - edges[0]
  rows = [edges[0] - width, *edges, edges[-1] + width]
  outside = [bool(share[0].any()), bool(share[-1].any())]
  first, last = (0 if outside[0] else 1), (None if outside[1] else -1)
  trace = {
    'type': 'heatmap',
    'x': [step for step, _ in points],
    'y': [page.value(y) for y in rows[first:last]],
    'z': [[page.value(z) for z in row] for row in share[first:last].tolist()],
    'colorscale': _SHADES,
    'zmin': 0,
    'colorbar': {'title': {'text': 'share', 'side': 'right'}, 'thickness': 12, 'outlinewidth': 0},
    'hovertemplate': 'step %{x}<br>score %{y:.3g}<br>share %{z:.3g}<extra></extra>',
  }
  names = [n for n, any_ in zip(('lowest', 'highest'), outside, strict=True) if any_]
  rest = ' and '.join(names)
  note = f'The {rest} row: all that lies beyond {lowest:g} to {highest:g}.' if rest else ''
  name = f'heat-{key.removeprefix(PREFIX)}-{_slug(run.name)}'
  return page.Figure(name, title, STEP, 'score', [trace], note)


# ---------------------------------------------------------------- lines
def _figure(content: page.Page, runs: Sequence[Run], panel: Panel, prefix: str) -> str:
  """'' where no run has any of the metrics."""
  traces, left_out, thinned = [], 0, False
  several = len(runs) > 1
  for i, run in enumerate(runs):
    for j, (key, legend) in enumerate(panel.keys.items()):
      found = [(row['step'], row[prefix + key]) for row in run.rows if prefix + key in row]
      points = [(x, y) for x, y in found if isinstance(y, (int, float))]
      if not points:
        continue
      left_out += sum(not math.isfinite(y) for _, y in points)
      thinned |= len(points) > page.MOST_POINTS
      # A colour is a run, the kind of line a metric; of one run the colours are the metrics.
      few = len(runs) <= len(plots.COLOURS) and len(panel.keys) <= len(plots.STYLES)
      number = i + len(plots.COLOURS) * j if few else len(traces)
      label = legend
      if several:
        label = run.name if len(panel.keys) == 1 else f'{run.name}: {legend}'
      traces.append(page.line(label, points, number if several else j))
  if not traces:
    return ''
  values = [y for trace in traces for y in trace['y'] if y is not None]
  log = (
    any(word in panel.title.lower() for word in _LOG)
    and min(values, default=0.0) > 0
    and max(values) > _LOG_FROM * min(values)
  )
  axis = {'type': 'log', 'exponentformat': 'power', 'dtick': _decades(values)} if log else {}
  if not log and min(values, default=-1.0) >= 0:
    axis = {'rangemode': 'nonnegative'}
  only = next(iter(panel.keys.values())) if several and len(panel.keys) == 1 else panel.title
  notes = [
    f'{only[:1].upper()}{only[1:]}.' if only.lower() != panel.title.lower() else '',
    f'{left_out:,} values that are not finite are gaps.' if left_out else '',
    f'At most {page.MOST_POINTS:,} points of a line are drawn.' if thinned else '',
  ]
  figure = page.Figure(
    name=_slug(f'{"telemetry" if prefix else "curve"}-{panel.title}'),
    title=panel.title,
    x=STEP,
    y=f'{panel.label} (log)' if log else panel.label,
    traces=traces,
    note=' '.join(filter(None, notes)),
    layout={'xaxis': {'rangemode': 'tozero'}, 'yaxis': axis},
  )
  return content.figure(figure)


def _decades(values: Sequence[float]) -> int:
  """From one tick of a logarithmic axis to the next, for at most six of them."""
  return max(1, math.ceil(math.log10(max(values) / min(values)) / 6))


def _keys(runs: Sequence[Run]) -> list[str]:
  """Metrics of any of the runs, in the order in which they appear."""
  keys = dict.fromkeys(key for run in runs for row in run.rows for key in row)
  return [key for key in keys if key not in ('step', 'time')]


def _without(runs: Sequence[Run], has, what: str) -> str:
  return ''.join(page.missing(f'{run.name} has {what}.') for run in runs if not has(run))


def _slug(text: str) -> str:
  """An anchor."""
  return re.sub(r'[^a-z0-9_-]+', '-', text.lower())
