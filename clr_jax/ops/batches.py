"""Rows of a data set in batches of one size, so that a program compiles once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def batches(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
  """Parts [size] of `rows` [N] in order, and how many entries of each are real.

  The last part is filled up with copies of its last row.
  """
  for start in range(0, len(rows), size):
    part = rows[start : start + size]
    yield np.pad(part, (0, size - len(part)), mode='edge'), len(part)
