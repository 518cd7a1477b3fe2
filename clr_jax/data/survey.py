"""Estimates of usual size, mean and deviation from some images of a data set."""

from __future__ import annotations

import numpy as np

from clr_jax.data.base import Source
from clr_jax.data.order import shuffled

MOST = 4096
"""Images that are looked at, at most."""
_STREAM = 1  # epochs take the streams 0, 1, ... of the same seed, and slices take seed 0
_AT_ONCE = 256


def drawn(n: int, *, seed: int) -> np.ndarray:
  """[min(n, MOST)] positions in 0..n-1, ascending, drawn by the seed."""
  return np.sort(shuffled(seed, _STREAM, n)[:MOST])


def pixel_statistics(source: Source, *, seed: int) -> tuple[list[float], list[float]]:
  """Mean and standard deviation of each channel of `drawn` images, with pixels in [0, 1].

  Both are rounded to four decimals. A constant channel has the deviation 1.

  Raises:
    UserError: an image is damaged (the message names it).
  """
  total = np.zeros([2, source.image_shape[-1]])
  rows = drawn(source.num_examples, seed=seed)
  for start in range(0, len(rows), _AT_ONCE):
    images = source.load(rows[start : start + _AT_ONCE])[0] / np.float32(255)
    total += [images.sum((0, 1, 2), dtype=np.float64), np.square(images).sum((0, 1, 2), np.float64)]
  mean, square = total / (len(rows) * np.prod(source.image_shape[:2]))
  std = np.sqrt(np.maximum(square - mean**2, 0))
  std = np.where(std < 1e-4, 1.0, std)
  return np.round(mean, 4).tolist(), np.round(std, 4).tolist()


def usual_side(sizes: np.ndarray) -> int:
  """The median of the shorter sides of images of [n, 2] sizes, in whole pixels."""
  return int(np.median(sizes.min(1)))
