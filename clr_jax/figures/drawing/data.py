"""Figures as data: numbers, labels and units, without any drawing library.

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
  """A line or a row of dots, perhaps with intervals.

  Attributes:
    name: legend entry; lines of one name share it.
    look: number of the look, see `palette.look`.
    x, y: [N]; NaN and infinity are gaps.
    x_half, y_half: [N] half of an interval around x or y, NaN where there is none; or None.
    joined: whether a line joins the points.
    dots: whether they have dots where they are few; always without the line.
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
  """A scatter plot of one class, or of several that share a look.

  Attributes:
    name: legend entry.
    look: see `palette.look`.
    x, y: [N].
    text: [N] what a pointer on a point shows.
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
    x, y: edges of the columns and rows, one more than there are; for contours the centers.
    z: [rows, columns]; not finite values are gray.
    label: of the colors, with the unit.
    limits: of the colors.
    contours: whether lines of equal height are drawn, with a cross at the origin.
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
  """Histograms of one quantity at several training steps.

  Attributes:
    name: legend entry.
    look: see `palette.look`.
    edges: [bins + 1].
    steps: [S].
    counts: [S, bins + 2]: below the edges, in the bins, above.
  """

  name: str
  look: int
  edges: np.ndarray
  steps: Sequence[int]
  counts: np.ndarray


class Cell(NamedTuple):
  """One image of a mosaic.

  Attributes:
    row, column: from 0.
    image: [H, W, C] uint8, or float in [0, 1]; C = 1 or 3.
    text: above it; '' for none.
    color: of text and frame; None for black text and no frame.
  """

  row: int
  column: int
  image: np.ndarray
  text: str = ''
  color: str | None = None


class Mosaic(NamedTuple):
  """Small images in rows and columns, in cells of width 1; the panel has no axes."""

  cells: Sequence[Cell]

  @property
  def row_heights(self) -> list[float]:
    """Height of each row, which has room for its images and the text above them."""
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
    label: with the unit.
    log: logarithmic; values that are not positive are gaps.
    limits: None lets the renderer choose.
    ticks: position -> text; {} lets the renderer choose.
    reversed: the smallest value is at the top or at the right.
    whole: only whole numbers have ticks.
  """

  label: str
  log: bool = False
  limits: tuple[float, float] | None = None
  ticks: Mapping[Any, str] = _NONE
  reversed: bool = False
  whole: bool = False


STEP_AXIS = Axis('training step', whole=True)


class Panel(NamedTuple):
  """One pair of axes; `note` says what a reader must know beside the title."""

  title: str
  x: Axis
  y: Axis
  marks: Sequence[Mark]
  note: str = ''

  def marks_of(self, kind: type[M]) -> list[M]:
    """The marks of one type."""
    return [mark for mark in self.marks if isinstance(mark, kind)]


class Block(NamedTuple):
  """Panels of one size in rows.

  Attributes:
    panels: in reading order.
    columns: panels of a row, at most.
    size: (width, height) of a panel in inches.
    shared: the panels have the same axes, which are labeled at the left and at the bottom only.
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
    name: is added to the file's name; '' for the only figure.
    blocks: one below the other.
    tables: name -> numbers; that of name '' has the figure's file name.
    title: above all; '' for none.
    legend: one for each panel, or one of all at the side that is named.
    details: name of a legend entry -> its longer text in a PNG.
  """

  name: str
  blocks: Sequence[Block]
  tables: Mapping[str, Table]
  title: str = ''
  legend: Literal['panels', 'below', 'right'] = 'below'
  details: Mapping[str, str] = _NONE

  @property
  def panels(self) -> list[Panel]:
    """The panels of all blocks."""
    return [panel for block in self.blocks for panel in block.panels]


class Figures(NamedTuple):
  """What a figure function returns.

  Attributes:
    drawn: the figures.
    missing: a sentence for each thing that is left out.
    text: for the terminal.
  """

  drawn: Sequence[FigureData]
  missing: Sequence[str] = ()
  text: str = ''


# ---------------------------------------------------------------- scales
def finite_range(values: Iterable[Any], default: tuple[float, float]) -> tuple[float, float]:
  """Smallest and largest finite number of all arrays, or `default` if there is none."""
  parts = [np.ravel(np.asarray(v, np.float64)) for v in values]
  numbers = np.concatenate([np.empty(0), *parts])
  numbers = numbers[np.isfinite(numbers)]
  return (float(numbers.min()), float(numbers.max())) if numbers.size else default


def spans_decades(values: Iterable[Any]) -> bool:
  """Whether the largest positive number is more than 30 times the smallest."""
  positive = [np.where(np.asarray(v, np.float64) > 0, v, np.nan) for v in values]
  low, high = finite_range(positive, (1.0, 1.0))
  return high > 30 * low
