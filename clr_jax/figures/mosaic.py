"""Many small images on one axes: each may have a line of text above it and a coloured frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_SIDE = 0.94  # of an image; cells are squares of side 1
_TEXT = 0.2  # height of a line of text
_INCHES = 0.95  # of a cell's width


class Cell(NamedTuple):
  """One image and its place.

  Attributes:
    row, column: from 0.
    image: [H, W, C] uint8, or float in [0, 1]; C = 1 or 3.
    text: above it; '' for none.
    colour: of text and frame; None for black text and no frame.
  """

  row: int
  column: int
  image: np.ndarray
  text: str = ''
  colour: str | None = None


def figure(blocks: Sequence[tuple[str, Sequence[Cell]]]) -> Any:
  """A matplotlib figure of (title, images), one block below the other."""
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  heights = [_INCHES * sum(_heights(cells)) + 0.35 for _, cells in blocks]
  columns = max(cell.column for _, cells in blocks for cell in cells) + 1
  size = max(_INCHES * columns + 0.3, 3.6), sum(heights) + 0.1
  made = Figure(figsize=size, dpi=110, layout='constrained')
  axes = made.subplots(len(blocks), 1, squeeze=False, height_ratios=heights).ravel()
  for (title, cells), axis in zip(blocks, axes, strict=True):
    draw(axis, cells)
    axis.set_title(title, fontsize=9)
  return made


def draw(axis: Any, cells: Sequence[Cell]) -> None:
  """Draws the images, the larger side of each as long as a cell, pixel by pixel."""
  from matplotlib.patches import Rectangle

  bottoms = np.cumsum(_heights(cells))
  for cell in cells:
    left, top = cell.column, bottoms[cell.row] - 1
    h, w = (_SIDE * side / max(cell.image.shape[:2]) for side in cell.image.shape[:2])
    axis.imshow(_rgb(cell.image), extent=(left, left + w, top + h, top), interpolation='nearest')
    if cell.colour is not None:
      frame = {'fill': False, 'ec': cell.colour, 'lw': 2.5}
      axis.add_patch(Rectangle((left, top), w, h, **frame))
    if cell.text:
      style = {'fontsize': 7, 'color': cell.colour or 'black', 'linespacing': 1.0}
      axis.text(left + w / 2, top - 0.04, cell.text, ha='center', va='bottom', **style)
  axis.set_xlim(-0.05, max(cell.column for cell in cells) + 1)
  axis.set_ylim(bottoms[-1], 0)
  axis.set_aspect('equal')
  axis.set_axis_off()


def _heights(cells: Sequence[Cell]) -> list[float]:
  """Of each row: its images and the text above them."""
  lines = [0] * (max(cell.row for cell in cells) + 1)
  for cell in cells:
    count = cell.text.count('\n') + 1 if cell.text else 0
    lines[cell.row] = max(lines[cell.row], count)
  return [1 + _TEXT * count for count in lines]


def _rgb(image: np.ndarray) -> np.ndarray:
  """[H, W, 3] in [0, 1]; augmentations with noise may leave that range a little."""
  image = image / 255 if image.dtype == np.uint8 else np.clip(image, 0, 1)
  return np.broadcast_to(image, (*image.shape[:2], 3))
