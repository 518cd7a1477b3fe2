"""Figures as data: numbers, labels and units, independent of drawing libraries.

A figure function returns `Figures`. `render_png` draws each `FigureData` with matplotlib and writes
its tables as CSV files; the report draws the same panels with plotly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

Numbers = Sequence[Any] | np.ndarray
_NONE: Mapping[Any, Any] = MappingProxyType({})


# ---------------------------------------------------------------- marks
class Line(NamedTuple):
  """A line or a series of dots, optionally with intervals.

  Attributes:
    name: legend entry, shared by lines with the same name.
    look: number of the look, see `palette.look`.
    x, y: [N]; NaN and infinity are gaps.
    x_half, y_half: [N] half-widths of intervals around x or y, NaN without one; or None.
    joined: True to join the points by a line.
    dots: True to mark the points if there are few; always marked without a line.
  """

  name: str
  look: int
  x: Numbers
  y: Numbers
  x_half: Numbers | None = None
  y_half: Numbers | None = None
  joined: bool = True
  dots: bool = True


class Level(NamedTuple):
  """A dotted straight line across the panel, at a value of y, or of x if `vertical`."""

  name: str
  look: int
  value: float
  vertical: bool = False


class Points(NamedTuple):
  """A scatter plot of one class, or of several classes that share a look.

  Attributes:
    name: legend entry.
    look: number of the look, see `palette.look`.
    x, y: [N] coordinates.
    text: [N] text shown when hovering over a point.
    ids: [N] index of each point in its data set.
    images: [N, H, W, C] uint8 shown with the text, C = 1 or 3; or None.
  """

  name: str
  look: int
  x: np.ndarray
  y: np.ndarray
  text: Sequence[str]
  ids: Sequence[int]
  images: np.ndarray | None = None


class Bars(NamedTuple):
  """Horizontal bars of the given lengths at y = 0, 1, ..."""

  look: int
  lengths: Numbers


class Grid(NamedTuple):
  """A matrix as colors.

  Attributes:
    x, y: edges of the columns and rows, one more than their number; centers for contours.
    z: [rows, columns]; non-finite values are gray.
    label: label of the color bar, with the unit.
    limits: limits of the colors.
    contours: True to draw contour lines, with a cross at the origin.
    numbers: [rows, columns] text of each cell, or None.
  """

  x: Numbers
  y: Numbers
  z: np.ndarray
  label: str
  limits: tuple[float, float]
  contours: bool = False
  numbers: Sequence[Sequence[str]] | None = None


class Histograms(NamedTuple):
  """Histograms of a quantity at several training steps.

  Attributes:
    name: legend entry.
    look: number of the look, see `palette.look`.
    edges: [bins + 1] edges of the bins.
    steps: [S] training steps.
    counts: [S, bins + 2] counts below the edges, in the bins, above.
  """

  name: str
  look: int
  edges: np.ndarray
  steps: Sequence[int]
  counts: np.ndarray


class Cell(NamedTuple):
  """One image of a mosaic.

  Attributes:
    row, column: position, from 0.
    image: [H, W, C] uint8, or float in [0, 1]; C = 1 or 3.
    text: text above it; '' for none.
    color: color of text and frame; None for black text without a frame.
    boxes: (left, top, right, bottom, color) of frames inside it, in pixels of the image.
  """

  row: int
  column: int
  image: np.ndarray
  text: str = ''
  color: str | None = None
  boxes: Sequence[tuple[float, float, float, float, str]] = ()


class Mosaic(NamedTuple):
  """Small images in rows and columns, in cells of width 1; the panel has no axes."""

  cells: Sequence[Cell]

  @property
  def row_heights(self) -> list[float]:
    """Height of each row, with space for its images and the text above them."""
    lines = [0] * (max(cell.row for cell in self.cells) + 1)
    for cell in self.cells:
      count = cell.text.count('\n') + 1 if cell.text else 0
      lines[cell.row] = max(lines[cell.row], count)
    return [1 + 0.2 * count for count in lines]

  @property
  def num_columns(self) -> int:
    """Number of columns."""
    return max(cell.column for cell in self.cells) + 1


Mark = Line | Level | Points | Bars | Grid | Histograms | Mosaic
M = TypeVar('M', bound=Mark)


# ---------------------------------------------------------------- figures
class Axis(NamedTuple):
  """One axis of a panel.

  Attributes:
    label: label with the unit.
    log: logarithmic axis; values that are not positive are gaps.
    limits: (lowest, highest) value; None = automatic.
    ticks: {position: text}; {} = automatic.
    reversed: True puts the smallest value at the top or at the right.
    whole: True restricts ticks to whole numbers.
  """

  label: str
  log: bool = False
  limits: tuple[float, float] | None = None
  ticks: Mapping[Any, str] = _NONE
  reversed: bool = False
  whole: bool = False


STEP_AXIS = Axis('training step', whole=True)


class Panel(NamedTuple):
  """A pair of axes with a title and a `note` for readers."""

  title: str
  x: Axis
  y: Axis
  marks: Sequence[Mark]
  note: str = ''

  def marks_of(self, kind: type[M]) -> list[M]:
    """Marks of one type."""
    return [mark for mark in self.marks if isinstance(mark, kind)]


class Block(NamedTuple):
  """Panels of one size in rows.

  Attributes:
    panels: panels in reading order.
    columns: largest number of panels per row.
    size: (width, height) of a panel in inches.
    shared: True if the panels share axes, labeled only at the left and at the bottom.
  """

  panels: Sequence[Panel]
  columns: int
  size: tuple[float, float]
  shared: bool = False


class Table(NamedTuple):
  """The numbers of a figure: `rows` of cells under a `header`."""

  header: Sequence[str]
  rows: Sequence[Sequence[Any]]


class FigureData(NamedTuple):
  """A figure.

  Attributes:
    name: suffix of the file name; '' for the only figure.
    blocks: blocks from top to bottom.
    tables: tables by name; a table named '' has the figure's file name.
    title: title above all blocks; '' for none.
    legend: a legend for each panel, or a common one at the given side.
    details: {legend entry: longer text in a PNG}.
  """

  name: str
  blocks: Sequence[Block]
  tables: Mapping[str, Table]
  title: str = ''
  legend: Literal['panels', 'below', 'right'] = 'below'
  details: Mapping[str, str] = _NONE

  @property
  def panels(self) -> list[Panel]:
    """Panels of all blocks."""
    return [panel for block in self.blocks for panel in block.panels]


class Figures(NamedTuple):
  """Result of a figure function.

  Attributes:
    drawn: the figures.
    missing: a sentence for each omission.
    text: text for the terminal.
  """

  drawn: Sequence[FigureData]
  missing: Sequence[str] = ()
  text: str = ''


# ---------------------------------------------------------------- scales
def finite_range(values: Iterable[Any], default: tuple[float, float]) -> tuple[float, float]:
  """Smallest and largest finite number of all arrays, or `default` if there are none."""
  parts = [np.ravel(np.asarray(v, np.float64)) for v in values]
  numbers = np.concatenate([np.empty(0), *parts])
  numbers = numbers[np.isfinite(numbers)]
  return (float(numbers.min()), float(numbers.max())) if numbers.size else default


def spans_decades(values: Iterable[Any]) -> bool:
  """True if the largest positive number is more than 30 times the smallest."""
  positive = [np.where(np.asarray(v, np.float64) > 0, v, np.nan) for v in values]
  low, high = finite_range(positive, (1.0, 1.0))
  return high > 30 * low
