"""Lines that hide each other, such as those of two runs with the same seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clr_jax.figures.drawing.data import Line


def lines_above(lines: Sequence[Line]) -> list[int]:
  """Number of later lines with the same points, which are drawn over each line.

  Renderers draw the lower lines wider, so that all of them are visible.
  """
  points = [np.array([line.x, line.y], np.float64) for line in lines]
  return [
    sum(np.array_equal(own, other, equal_nan=True) for other in points[i + 1 :])
    for i, own in enumerate(points)
  ]
