"""Draws each kind of mark of a panel on matplotlib's axes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from clr_jax.figures.drawing.data import (
  Bars,
  Grid,
  Histograms,
  Level,
  Line,
  Mark,
  Mosaic,
  Points,
)
from clr_jax.figures.drawing.palette import COLORS, look

_BAND_FROM = 15  # points of a line with a band; fewer get error bars
_MARKERS_BELOW = 40  # points of a line with markers
_OVERLAP = 1.7  # height of a ridge in distances between ridges
_LEVELS = 14  # of contours
_ENTRY = 'entry:'
_SIDE = 0.94  # of an image in a cell of width 1


def draw_mark(axis: Any, mark: Mark, *, above: int = 0) -> Any:
  """Draws a mark; returns matplotlib's mappable for a `Grid`, else None.

  Args:
    axis: matplotlib axes.
    mark: mark to draw.
    above: number of lines drawn over it at the same points.
  """
  draw = {
    Line: functools.partial(_line, above=above),
    Level: _level,
    Points: _points,
    Bars: _bars,
    Grid: _grid,
    Histograms: _histograms,
    Mosaic: _mosaic,
  }
  return draw[type(mark)](axis, mark)


def name_of(label: str) -> str:
  """Legend entry of a mark, from matplotlib's label."""
  return label.removeprefix(_ENTRY)


def _label(name: str) -> str | None:
  """Label for matplotlib, which ignores labels that start with '_'; None for no entry."""
  return f'{_ENTRY}{name}' if name else None


def _line(axis: Any, line: Line, *, above: int) -> None:
  color, dash, marker = look(line.look)
  dots = (line.dots and len(line.x) < _MARKERS_BELOW) or not line.joined
  style = {
    'label': _label(line.name),
    'color': color,
    'ls': dash if line.joined else '',
    'lw': 1.3 + 2.2 * above,
    'marker': marker if dots else None,
    'ms': 3.5 + 2.5 * above,
  }
  if line.y_half is not None and line.joined and len(line.x) >= _BAND_FROM:
    y, half = np.array(line.y), np.array(line.y_half)
    axis.fill_between(line.x, y - half, y + half, color=color, alpha=0.2, lw=0)
    axis.plot(line.x, y, **style)
  else:
    bars = {'capsize': 2, 'elinewidth': 1.0}
    axis.errorbar(line.x, line.y, xerr=line.x_half, yerr=line.y_half, **style, **bars)


def _level(axis: Any, level: Level) -> None:
  draw = axis.axvline if level.vertical else axis.axhline
  style = {'lw': 1.3, 'ls': '--'} if level.name else {'lw': 1, 'ls': (0, (1, 2))}
  draw(level.value, color=look(level.look).color, label=_label(level.name), **style)


def _points(axis: Any, points: Points) -> None:
  color, _, marker = look(points.look)
  style = {'color': color, 'marker': marker, 's': 16, 'alpha': 0.75, 'lw': 0}
  axis.scatter(points.x, points.y, label=_label(points.name), **style)


def _bars(axis: Any, bars: Bars) -> None:
  axis.barh(np.arange(len(bars.lengths)), bars.lengths, color=look(bars.look).color)


def _grid(axis: Any, grid: Grid) -> Any:
  axis.set_facecolor('0.85')  # shows where values are not finite
  z = np.ma.masked_invalid(grid.z)
  if grid.contours:
    return _contours(axis, grid, z)
  low, high = grid.limits
  mesh = axis.pcolormesh(grid.x, grid.y, z, vmin=low, vmax=high, cmap='cividis')
  for i, texts in enumerate(grid.numbers or ()):
    for j, text in enumerate(texts):
      color = 'black' if grid.z[i, j] > (low + high) / 2 else 'white'
      at = np.mean(grid.x[j : j + 2]), np.mean(grid.y[i : i + 2])
      axis.text(*at, text, ha='center', va='center', color=color, fontsize=7)
  return mesh


def _contours(axis: Any, grid: Grid, z: np.ma.MaskedArray) -> Any:
  """Draws contours at round values, logarithmic over more than a factor of 30."""
  # Matplotlib takes 0.5 s to import and is needed only for drawing.
  from matplotlib.colors import LogNorm, Normalize
  from matplotlib.ticker import MaxNLocator

  low, high = grid.limits
  if low > 0 and high > 30 * low:
    levels, norm = np.geomspace(low, high, _LEVELS), LogNorm(low, high)
  else:
    room = 0.5 * (high <= low)
    levels = np.asarray(MaxNLocator(_LEVELS).tick_values(low - room, high + room))
    norm = Normalize(levels[0], levels[-1])
  filled = axis.contourf(grid.x, grid.y, z, levels, norm=norm, cmap='cividis')
  axis.contour(grid.x, grid.y, z, levels, colors='white', linewidths=0.5, norm=norm)
  axis.plot(0, 0, 'x', color=COLORS[1], ms=7, mew=2)
  axis.set_aspect('equal')
  axis.locator_params(nbins=5)
  return filled


def _histograms(axis: Any, histograms: Histograms) -> None:
  """Draws a ridge per step, scaled to its own maximum; earlier ones are in front of later ones."""
  color, count = look(histograms.look).color, len(histograms.steps)
  for i, counts in enumerate(histograms.counts[:, 1:-1]):
    y = i + _OVERLAP * counts / max(counts.max(), 1)
    area = {'baseline': i, 'color': color}
    name = None if i else _label(histograms.name)
    axis.stairs(
      y, histograms.edges, fill=True, alpha=0.45, zorder=2 * (count - i), label=name, **area
    )
    axis.stairs(y, histograms.edges, lw=1.0, zorder=2 * (count - i) + 1, **area)
  axis.set_ylim(-0.2, count - 1 + _OVERLAP + 0.15)


def _mosaic(axis: Any, mosaic: Mosaic) -> None:
  """Draws images with square pixels, the larger side as long as a cell."""
  from matplotlib.patches import Rectangle  # as above

  bottoms = np.cumsum(mosaic.row_heights)
  for cell in mosaic.cells:
    left, top = cell.column, bottoms[cell.row] - 1
    h, w = (_SIDE * side / max(cell.image.shape[:2]) for side in cell.image.shape[:2])
    extent = (left, left + w, top + h, top)
    axis.imshow(rgb(cell.image), extent=extent, interpolation='nearest')
    if cell.color is not None:
      axis.add_patch(Rectangle((left, top), w, h, fill=False, ec=cell.color, lw=2.5))
    for x, y, right, bottom, color in cell.boxes:
      scale = h / cell.image.shape[0]
      corner, box = (left + scale * x, top + scale * y), (scale * (right - x), scale * (bottom - y))
      axis.add_patch(Rectangle(corner, *box, fill=False, ec=color, lw=1.0))
    if cell.text:
      style = {'fontsize': 7, 'color': cell.color or 'black', 'linespacing': 1.0}
      axis.text(left + w / 2, top - 0.04, cell.text, ha='center', va='bottom', **style)
  axis.set_xlim(-0.05, mosaic.num_columns)
  axis.set_ylim(bottoms[-1], 0)
  axis.set_aspect('equal')
  axis.set_axis_off()


def rgb(image: np.ndarray) -> np.ndarray:
  """Converts to [H, W, 3] in [0, 1]; noise may leave that range slightly."""
  image = image / 255 if image.dtype == np.uint8 else np.clip(image, 0, 1)
  return np.broadcast_to(image, (*image.shape[:2], 3))
