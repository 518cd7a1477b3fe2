"""Batches of equal size from the rows of a data set, so that a program compiles once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def batches(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
  """Yields parts [size] of `rows` [N] in order, and the number of real entries in each.

  The last part is padded with copies of its last row.
  """
  for start in range(0, len(rows), size):
    part = rows[start : start + size]
    yield np.pad(part, (0, size - len(part)), mode='edge'), len(part)
