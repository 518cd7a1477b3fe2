"""Scores and gradients of kept checkpoints: the offline view of feature transformation.

Zhu et al., https://arxiv.org/abs/2108.02982: means and variances of scores and the gradient norms
of the layers, without a measurement while training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from clr_jax.core.bounds import Pictures, Seed
from clr_jax.core.errors import UserError
from clr_jax.figures.analysis.offline import Measured, measure_checkpoints
from clr_jax.figures.drawing.data import (
  STEP_AXIS,
  Axis,
  Block,
  FigureData,
  Figures,
  Line,
  Panel,
  Table,
  finite_range,
  spans_decades,
)
from clr_jax.figures.drawing.metric_panels import METRIC_PANELS
from clr_jax.figures.gradients import norm_map
from clr_jax.rundir.reader import Run
from clr_jax.wrappers.telemetry import PREFIX

_TALLEST = 11.0  # inches of a map
_FEW = 40  # layers whose names fit into the tallest map
_LETTERS = 34  # of a layer's name


def checkpoints(
  runs: Sequence[Run],
  *,
  most: Pictures = 30,
  batch_size: Annotated[int, Ge(2), Le(2**31 - 1)] | None = None,
  seed: Seed = 0,
) -> Figures:
  """Draws two figures from the kept checkpoints of each run: scores and gradients.

  scores: loss, means and variances of positive and negative scores, alignment and uniformity, over
  training. gradients: the norm of each layer's gradient, as colors. All are measured on one fixed
  batch of training images, for which no telemetry is needed.

  Args:
    runs: runs to draw; keep their checkpoints by `keep_last` and `checkpoint_every`.
    most: largest number of checkpoints of a run, evenly spaced.
    batch_size: images of the batch; None = the run's, at most 256.
    seed: RNG seed of the batch, its views and the loss, the same for all runs.
  """
  measured: dict[str, list[Measured]] = {}
  missing = []
  for run in runs:
    kept = run.checkpoints
    if not kept:
      missing.append(f'{run.directory} has no checkpoint yet: let it train')
      continue
    at = np.unique(np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int))
    try:
      own = measure_checkpoints(run, [kept[i] for i in at], batch_size=batch_size, seed=seed)
    except UserError as error:
      missing.append(f'checkpoints of {run.name}: {error}')
      continue
    measured[run.name] = own
  if not measured:
    return Figures([], missing)
  return Figures([score_figure(measured), gradient_figure(measured)], missing)


def score_figure(measured: Mapping[str, Sequence[Measured]]) -> FigureData:
  """Figure with a panel for each score, a line for each run."""
  known = {name.removeprefix(PREFIX): panel for panel in METRIC_PANELS for name in panel.metrics}
  names = dict.fromkeys(name for own in measured.values() for each in own for name in each.scores)
  panels = []
  for name in (name for name in known if name in names):
    lines = []
    for look, (run, own) in enumerate(measured.items()):
      found = [(each.step, each.scores[name]) for each in own if name in each.scores]
      lines += [Line(run, look, [x for x, _ in found], [y for _, y in found])] * bool(found)
    values = {y for line in lines for y in line.y}
    if len(values) == 1 and any(len(line.y) > 1 for line in lines):
      continue  # constant, such as most temperatures; in the table
    panel = known[name]
    log = panel.log and spans_decades(line.y for line in lines)
    legend = panel.metrics.get(f'{PREFIX}{name}', '')
    title = ': '.join(filter(None, (panel.title, legend)))
    panels.append(Panel(title, STEP_AXIS, Axis(panel.label, log), lines))
  rows = [
    (run, name, each.step, value)
    for run, own in measured.items()
    for each in own
    for name, value in each.scores.items()
  ]
  table = Table(('run', 'metric', 'step', 'value'), rows)
  return FigureData('scores', [Block(panels, 3, (3.7, 2.5))], {'': table})


def gradient_figure(measured: Mapping[str, Sequence[Measured]]) -> FigureData:
  """Figure with a map of the layers' gradient norms over training for each run."""
  maps, most = [], 0
  for run, own in measured.items():
    layers = list(own[0].norms)
    steps = [each.step for each in own]
    norms = {layer: (steps, [each.norms[layer] for each in own]) for layer in layers}
    maps.append((*norm_map(run, norms), layers))
    most = max(most, len(layers))
  limits = finite_range([grid.z for _, grid, _ in maps], (0.0, 1.0))
  panels = []
  for run, grid, layers in maps:
    every = -(-len(layers) // _FEW)
    ticks = {i + 0.5: layer[-_LETTERS:] for i, layer in enumerate(layers) if i % every == 0}
    y = Axis('layer', ticks=ticks, reversed=True)
    panels.append(Panel(run, STEP_AXIS, y, [grid._replace(limits=limits)]))
  rows = [
    (run, layer, each.step, norm)
    for run, own in measured.items()
    for each in own
    for layer, norm in each.norms.items()
  ]
  block = Block(panels, 3, (4.8, min(0.28 * most + 1.4, _TALLEST)))
  table = Table(('run', 'layer', 'step', 'norm'), rows)
  return FigureData('gradients', [block], {'': table})
