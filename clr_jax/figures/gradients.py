"""Gradient norms during training, and the loss along the gradient and around a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Le

from clr_jax.core.bounds import CountOrZero, NonNegative, Seed, Zoom
from clr_jax.core.errors import UserError
from clr_jax.figures.analysis import loss_surface
from clr_jax.figures.drawing.data import (
  STEP_AXIS,
  Axis,
  Block,
  FigureData,
  Figures,
  Grid,
  Level,
  Line,
  Panel,
  Table,
  finite_range,
)
from clr_jax.figures.drawing.metric_panels import (
  GRADIENT_NORM,
  metric_panels,
  series_panels,
  with_telemetry,
)
from clr_jax.ops.gradient_statistics import landscape
from clr_jax.rundir.reader import Run

_COLUMNS = 4
_ETA = Axis('η: step against the gradient (dotted: η = 0)', log=True)
_DIRECTION = Axis('random direction (lengths of the filters)')


class Probe(NamedTuple):
  """Measurements of a checkpoint.

  Attributes:
    name: name of the run.
    step: step of the checkpoint.
    descent: rows (eta, loss, gradient norm, norm of the gradient's change), starting at eta = 0.
    losses: [points, points] losses of the surface, or None.
  """

  name: str
  step: int
  descent: Sequence[tuple[float, float, float, float]]
  losses: np.ndarray | None

  @property
  def title(self) -> str:
    """Title with run and step."""
    return f'{self.name}, step {self.step:,}'


def gradients(
  runs: Sequence[Run],
  *,
  step: CountOrZero | None = None,
  etas: Sequence[NonNegative] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
  surface: bool = True,
  points: Annotated[int, Ge(3), Le(1001)] = 11,
  span: Zoom = 1.0,
  batch_size: Annotated[int, Ge(2), Le(2**31 - 1)] | None = None,
  seed: Seed = 0,
) -> Figures:
  """Draws three figures: norms, descent and surface.

  The norms are those of the gradient of each parameter group during training, from telemetry. The
  descent is the training loss of a checkpoint on one fixed batch (`loss_surface.open_objective`)
  along the negative gradient; the surface is the loss on the plane of two random directions, in
  units of the filters' norms.

  Args:
    runs: runs to draw.
    step: step of the checkpoint; None = each run's newest.
    etas: lengths of the steps w - eta g; () omits the figure. The defaults range from a small
      learning rate to steps at which a loss of these methods no longer follows its gradient.
    surface: True to draw the surface of points^2 losses, the slowest part.
    points: number of points along each direction; odd, so that the checkpoint is one of them.
    span: extent to both sides; 1 = the norm of every filter (Li et al.).
    batch_size: images of the batch; None = the run's, at most 256.
    seed: RNG seed of the batch and the directions, the same for all runs.

  Raises:
    UserError: an even number of points.
  """
  if points % 2 == 0:
    raise UserError(f'points={points} must be odd, so that the middle is the checkpoint')
  figures, missing = _norms(runs)
  offsets = np.linspace(-span, span, points) if surface else None
  probes = []
  for run in runs if etas or surface else ():
    try:
      objective = loss_surface.open_objective(run, step=step, batch_size=batch_size, seed=seed)
    except UserError as error:
      missing.append(str(error))
      continue
    probes.append(_probe(objective, run.name, etas=etas, offsets=offsets, seed=seed))
  if probes and etas:
    figures.append(descent_figure(probes))
  if probes and offsets is not None:
    figures.append(surface_figure(probes, offsets))
  return Figures(figures, missing)


# ---------------------------------------------------------------- norms
def _norms(runs: Sequence[Run]) -> tuple[list[FigureData], list[str]]:
  """Blocks with norms by step and group as colors for each run and a panel per group; omissions."""
  measured, missing = with_telemetry(runs)
  specs = [panel for panel in metric_panels(measured) if 'gradients' in panel.figures]
  if not specs:
    missing += ['norms of gradients, which the telemetry of these runs does not have'] * any(
      measured
    )
    return [], missing
  groups = [metric.removeprefix(GRADIENT_NORM) for panel in specs for metric in panel.metrics]
  norms = {
    run.name: {group: run.series(f'{GRADIENT_NORM}{group}') for group in groups} for run in measured
  }
  maps = [norm_map(name, own) for name, own in norms.items() if any(s for s, _ in own.values())]
  limits = finite_range([grid.z for _, grid in maps], (0.0, 1.0))
  rows = {i + 0.5: group for i, group in enumerate(groups)}
  y = Axis('parameters', ticks=rows, reversed=True)
  panels = [Panel(name, STEP_AXIS, y, [grid._replace(limits=limits)]) for name, grid in maps]
  blocks = [
    Block(panels, _COLUMNS, (3.3, 0.3 * len(groups) + 1.3)),
    Block(series_panels(measured, specs, points=True), _COLUMNS, (3.3, 2.4)),
  ]
  cells = [
    (name, group, step, value)
    for name, own in norms.items()
    for group, series in own.items()
    for step, value in zip(*series, strict=True)
  ]
  table = Table(('run', 'group', 'step', 'norm'), cells)
  return [FigureData('norms', blocks, {'': table})], missing


def norm_map(name: str, norms: Mapping[str, tuple[list[int], list[float]]]) -> tuple[str, Grid]:
  """Name, and log10 norms [groups, steps] as colors; NaN where missing.

  Args:
    name: name of the run.
    norms: {group: (steps, values)}.
  """
  steps = sorted({step for values, _ in norms.values() for step in values})
  found = np.full([len(norms), len(steps)], np.nan)
  for row, (own, values) in zip(found, norms.values(), strict=True):
    row[np.searchsorted(steps, own)] = values
  with np.errstate(divide='ignore', invalid='ignore'):
    z = np.log10(np.where(found > 0, found, np.nan))
  # A column covers the steps since the previous column.
  edges = [steps[0] - (steps[1] - steps[0] if len(steps) > 1 else 1), *steps]
  label = 'log10 L2 norm (gray: none)'
  return name, Grid(edges, range(len(norms) + 1), z, label, (0.0, 1.0))


# ---------------------------------------------------------------- checkpoints
def _probe(
  objective: loss_surface.Objective,
  name: str,
  *,
  etas: Sequence[float],
  offsets: np.ndarray | None,
  seed: int,
) -> Probe:
  descent, losses = [], None
  if etas:
    lengths = sorted({0.0, *map(float, etas)})
    found = landscape(objective.value_and_grad, objective.params, lengths)
    columns = (found.losses, found.grad_norms, found.grad_differences)
    descent = list(zip(lengths, *(np.asarray(c).tolist() for c in columns), strict=True))
  if offsets is not None:
    losses = loss_surface.surface(objective.loss, objective.params, offsets.tolist(), seed=seed)
  return Probe(name, objective.step, descent, losses)


def descent_figure(probes: Sequence[Probe]) -> FigureData:
  """Figure of loss, gradient norm and predictiveness by step length; dotted: at η = 0."""
  titles = {
    'Loss': 'loss',
    'Gradient norm': '‖g(w - ηg)‖',
    'Gradient predictiveness (small = predictive)': '‖g(w - ηg) - g(w)‖',
  }
  panels = []
  for column, (title, label) in enumerate(titles.items(), 1):
    marks = []
    for look, probe in enumerate(probes):
      start, *moved = probe.descent
      x, y = [row[0] for row in moved], [row[column] for row in moved]
      marks.append(Line(probe.title, look, x, y))
      marks += [Level('', look, start[column])] * (column < 3)
    panels.append(Panel(title, _ETA, Axis(label), marks))
  header = ('run', 'step', 'eta', 'loss', 'grad_norm', 'grad_difference')
  rows = [(probe.name, probe.step, *row) for probe in probes for row in probe.descent]
  return FigureData('descent', [Block(panels, 3, (3.8, 3.2))], {'': Table(header, rows)})


def surface_figure(probes: Sequence[Probe], offsets: np.ndarray) -> FigureData:
  """Figure with filled contours of the losses on one color scale, a cross at each checkpoint."""
  found = [(probe, probe.losses) for probe in probes if probe.losses is not None]
  limits = finite_range([losses for _, losses in found], (0.0, 1.0))
  panels, rows = [], []
  for probe, losses in found:
    grid = Grid(offsets, offsets, losses, 'loss on the fixed batch', limits, contours=True)
    center = losses[len(offsets) // 2, len(offsets) // 2]
    note = f'loss {center:.5g} at the cross'
    panels.append(Panel(probe.title, _DIRECTION, _DIRECTION, [grid], note))
    rows += [
      (probe.name, probe.step, x, y, loss)
      for y, row in zip(offsets.tolist(), losses.tolist(), strict=True)
      for x, loss in zip(offsets.tolist(), row, strict=True)
    ]
  table = Table(('run', 'step', 'x', 'y', 'loss'), rows)
  return FigureData('surface', [Block(panels, _COLUMNS, (3.9, 3.5))], {'': table})
