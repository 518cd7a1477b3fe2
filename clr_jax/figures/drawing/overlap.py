"""Lines that hide each other, such as those of two runs with the same seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clr_jax.figures.drawing.data import Line


def lines_above(lines: Sequence[Line]) -> list[int]:
  """For each line the number of later ones with the same points, which are drawn over it.

  Renderers draw it wider by so much that all of them are seen.
  """
  points = [np.array([line.x, line.y], np.float64) for line in lines]
  return [
    sum(np.array_equal(own, other, equal_nan=True) for other in points[i + 1 :])
    for i, own in enumerate(points)
  ]
