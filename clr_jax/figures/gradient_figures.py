"""How the pictures of gradients look: norms, the way along the gradient, the surface."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clr_jax.figures import plots

Groups = Mapping[str, tuple[list[int], list[float]]]
_COLUMNS = 4
_LEVELS = 14  # of contours
_NORM = 'log10 ‖gradient‖'
_PREDICTIVENESS = ('Gradient predictiveness (small = predictive)', '‖g(w - ηg) - g(w)‖')
_DIRECTION = 'random direction (lengths of the filters)'


def draw_norms(found: Mapping[str, Groups]) -> Any:
  """A heat map of steps x groups a run, in one colour scale; below, a line a run for each group."""
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  groups = list(dict.fromkeys(g for norms in found.values() for g in norms))
  columns = min(len(found), _COLUMNS)
  rows = math.ceil(len(found) / columns)
  lines = min(len(groups), _COLUMNS)
  line_rows = math.ceil(len(groups) / lines)
  top, bottom = rows * (0.3 * len(groups) + 1.1), 2.4 * line_rows + 0.5
  figure = Figure(figsize=(3.3 * max(columns, lines), top + bottom), dpi=110, layout='constrained')
  panes: Any = figure.subfigures(2, 1, height_ratios=(top, bottom))
  above, below = panes
  _heat_maps(above, found, groups, rows, columns)
  axes = below.subplots(line_rows, lines, squeeze=False).ravel().tolist()
  for group, axis in zip(groups, axes, strict=False):
    for i, norms in enumerate(found.values()):
      steps, values = norms.get(group, ([], []))
      marker = {'marker': 'o', 'ms': 3} if len(steps) < 15 else {}
      axis.plot(steps, [_log10(v) for v in values], lw=1.3, **plots.look(i), **marker)
    _finish(axis, group, 'training step', _NORM)
  _clear(axes[len(groups) :])
  _legend(below, list(found))
  return figure


def _heat_maps(figure: Any, found: Mapping[str, Groups], groups, rows: int, columns: int) -> None:
  grids = {name: _grid(norms, groups) for name, norms in found.items()}
  low, high = _range(np.concatenate([grid.ravel() for _, grid in grids.values()]))
  axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
  mesh: Any = None
  for (name, (steps, grid)), axis in zip(grids.items(), axes, strict=False):
    # A row stands for the steps since the row before it.
    edges = [steps[0] - (steps[1] - steps[0] if len(steps) > 1 else 1), *steps]
    mesh = axis.pcolormesh(edges, range(len(groups) + 1), grid, vmin=low, vmax=high, cmap='cividis')
    axis.set_yticks([i + 0.5 for i in range(len(groups))], groups)
    axis.invert_yaxis()
    axis.set_facecolor('0.85')  # not measured, or 0
    _finish(axis, name, 'training step', 'parameters')
    axis.grid(False)
  _clear(axes[len(grids) :])
  bar = figure.colorbar(mesh, ax=axes[: len(grids)], shrink=0.9)
  bar.set_label(f'{_NORM} (grey: none)', fontsize=8)
  bar.ax.tick_params(labelsize=8)


def _grid(norms: Groups, groups: Sequence[str]) -> tuple[list[int], np.ndarray]:
  """(steps, log10 norms [groups, steps]); NaN where there is none."""
  steps = sorted({step for values, _ in norms.values() for step in values})
  grid = np.full([len(groups), len(steps)], np.nan)
  for i, group in enumerate(groups):
    for step, value in zip(*norms.get(group, ([], [])), strict=True):
      grid[i, steps.index(step)] = _log10(value)
  return steps, grid


def _log10(value: float) -> float:
  """NaN, a gap in the picture, for what has no logarithm."""
  return math.log10(value) if math.isfinite(value) and value > 0 else math.nan


def _range(values: np.ndarray) -> tuple[float, float]:
  values = values[np.isfinite(values)]
  return (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)


# ---------------------------------------------------------------- along the gradient
def draw_descent(lines: Mapping[str, np.ndarray]) -> Any:
  """Three panels over the length of the step.

  Args:
    lines: name -> [E, 4]: eta, loss, gradient norm, norm of the change; eta = 0 first, which is the
      thin horizontal line.
  """
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  panels = ('Loss', 'loss'), ('Gradient norm', '‖g(w - ηg)‖'), _PREDICTIVENESS
  figure = Figure(figsize=(11.5, 3.5), dpi=110, layout='constrained')
  for column, ((title, label), axis) in enumerate(
    zip(panels, figure.subplots(1, 3).tolist(), strict=True), 1
  ):
    for i, numbers in enumerate(lines.values()):
      moved = numbers[numbers[:, 0] > 0]
      axis.plot(moved[:, 0], moved[:, column], marker='o', ms=3, lw=1.3, **plots.look(i))
      if column < 3:
        colour = plots.look(i)['color']
        axis.axhline(numbers[0, column], color=colour, lw=0.8, ls=(0, (1, 3)))
    axis.set_xscale('log')
    _finish(axis, title, 'η: step against the gradient', label)
  _legend(figure, list(lines), 'thin dots: at the checkpoint, η = 0')
  return figure


# ---------------------------------------------------------------- surface
def draw_surfaces(grids: Mapping[str, np.ndarray], offsets: np.ndarray) -> Any:
  """Filled contours of the loss in one colour scale, a cross at each checkpoint.

  Args:
    grids: name -> losses [y, x].
    offsets: of rows and columns.
  """
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  columns = min(len(grids), _COLUMNS)
  rows = math.ceil(len(grids) / columns)
  figure = Figure(figsize=(3.4 * columns + 1.2, 3.5 * rows + 0.4), dpi=110, layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
  levels, norm = _levels(np.concatenate([grid.ravel() for grid in grids.values()]))
  filled: Any = None
  for (name, grid), axis in zip(grids.items(), axes, strict=False):
    losses = np.ma.masked_invalid(grid)
    axis.set_facecolor('0.85')  # not finite
    filled = axis.contourf(offsets, offsets, losses, levels, norm=norm, cmap='cividis')
    axis.contour(offsets, offsets, losses, levels, colors='white', linewidths=0.5, norm=norm)
    axis.plot(0, 0, 'x', color='#D55E00', ms=7, mew=2)
    centre = float(grid[len(grid) // 2, grid.shape[1] // 2])
    _finish(axis, f'{name}\nloss {centre:.5g} at the cross', _DIRECTION, _DIRECTION)
    axis.set_aspect('equal')
    axis.locator_params(nbins=5)
    axis.grid(False)
  _clear(axes[len(grids) :])
  bar = figure.colorbar(filled, ax=axes[: len(grids)], shrink=0.85, format='%.5g')
  bar.set_label('loss on the fixed batch', fontsize=9)
  bar.ax.tick_params(labelsize=8)
  return figure


def _levels(values: np.ndarray) -> tuple[np.ndarray, Any]:
  """Contours around all losses, at round values; logarithmic over more than a factor of 30."""
  from matplotlib.colors import LogNorm, Normalize
  from matplotlib.ticker import MaxNLocator

  low, high = _range(values)
  if low > 0 and high > 30 * low:
    return np.geomspace(low, high, _LEVELS), LogNorm(low, high)
  if high <= low:
    low, high = low - 0.5, low + 0.5
  levels = np.asarray(MaxNLocator(_LEVELS).tick_values(low, high))
  return levels, Normalize(levels[0], levels[-1])


# ---------------------------------------------------------------- shared
def _finish(axis: Any, title: str, xlabel: str, ylabel: str) -> None:
  axis.set_title(title, fontsize=10)
  axis.set_xlabel(xlabel, fontsize=9)
  axis.set_ylabel(ylabel, fontsize=9)
  axis.tick_params(labelsize=8)
  axis.grid(alpha=0.3)


def _clear(axes: Sequence[Any]) -> None:
  for axis in axes:
    axis.remove()


def _legend(figure: Any, names: Sequence[str], *notes: str) -> None:
  """Below the panels, where it covers no data."""
  from matplotlib.lines import Line2D

  handles = [Line2D([], [], **plots.look(i), label=name) for i, name in enumerate(names)]
  handles += [Line2D([], [], color='0.4', lw=0.8, ls=(0, (1, 3)), label=note) for note in notes]
  figure.legend(handles=handles, loc='outside lower center', ncols=4, frameon=False, fontsize=9)
