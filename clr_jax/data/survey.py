"""Estimates of usual size, mean and deviation from some images of a data set."""

from __future__ import annotations

import numpy as np

from clr_jax.data.base import Source
from clr_jax.data.order import shuffled

MOST = 4096
"""Images of up to 64x64 pixels that are decoded, at most; of larger ones as many pixels."""
HEADERS = 1024
"""Images whose sizes are read, at most."""
_PIXELS = 64 * 64
_STREAM = 1  # epochs take the streams 0, 1, ... of the same seed, and slices take seed 0
_AT_ONCE = 256


def drawn(n: int, *, seed: int, most: int = HEADERS) -> np.ndarray:
  """[min(n, most)] positions in 0..n-1, ascending, drawn by the seed."""
  return np.sort(shuffled(seed, _STREAM, n)[:most])


def pixel_statistics(source: Source, *, seed: int) -> tuple[list[float], list[float]]:
  """Mean and standard deviation of each channel of `drawn` images, with pixels in [0, 1].

  Both are rounded to four decimals. A constant channel has the deviation 1. 4,096 images of up to
  64x64 pixels are decoded, 334 of 224x224, whose mean has an error of about 0.007.

  Raises:
    UserError: an image is damaged (the message names it).
  """
  height, width, channels = source.image_shape
  most = max(1, MOST * _PIXELS // max(height * width, _PIXELS))
  rows = drawn(source.num_examples, seed=seed, most=most)
  count = np.zeros([channels, 256], int)  # of each pixel value
  for start in range(0, len(rows), _AT_ONCE):
    images = source.load(rows[start : start + _AT_ONCE])[0]
    count += [np.bincount(images[..., i].ravel(), minlength=256) for i in range(channels)]
  values = np.arange(256) / 255
  mean, square = (count @ values**power / count.sum(1) for power in (1, 2))
  std = np.sqrt(np.maximum(square - mean**2, 0))
  std = np.where(std < 1e-4, 1.0, std)
  return np.round(mean, 4).tolist(), np.round(std, 4).tolist()


def usual_side(sizes: np.ndarray) -> int:
  """The median of the shorter sides of images of [n, 2] sizes, in whole pixels."""
  return int(np.median(sizes.min(1)))
