"""Blurs: defocus, frosted glass, motion, zoom, Gaussian.

Functions of (x, rngs, constants of `_tables`): x [N, H, W, C] in [0, 1], one generator per image;
they return the same shape, not yet clipped. Source: Hendrycks and Dietterich (ICLR 2019).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from clr_jax.evaluation.corruptions._warp import Generators, clipped_zoom, motion


def smooth(x: np.ndarray, sigma: float) -> np.ndarray:
  """Applies a Gaussian filter to [N, H, W, ...] over H and W, with repeated edges."""
  sigmas = (0, sigma, sigma) + (0,) * (x.ndim - 3)
  return ndimage.gaussian_filter(x, sigmas, mode='nearest', truncate=4.0)


def gaussian_blur(x: np.ndarray, rngs: Generators, sigma: float) -> np.ndarray:
  """Gaussian blur of `sigma` pixels."""
  return smooth(x, sigma)


def defocus_blur(x: np.ndarray, rngs: Generators, radius: float, softness: float) -> np.ndarray:
  """Convolves with a disk of `radius` pixels, smoothed by a Gaussian of `softness` pixels."""
  kernel = _disk(radius, softness)
  return ndimage.correlate(x, kernel[None, :, :, None], mode='mirror')


def _disk(radius: float, softness: float) -> np.ndarray:
  """Kernel without surrounding zeros."""
  small = radius <= 8
  reach = np.arange(-8, 9) if small else np.arange(-radius, radius + 1)  # as large as the source's
  taps = np.arange(-1, 2) if small else np.arange(-2, 3)
  disk = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(float)
  disk /= disk.sum()
  gauss = np.exp(-(taps**2) / (2 * softness**2))
  gauss /= gauss.sum()
  for axis in (0, 1):
    disk = ndimage.correlate1d(disk, gauss, axis, mode='mirror')
  used = np.flatnonzero(disk.any(0))
  return disk[used[0] : used[-1] + 1, used[0] : used[-1] + 1]


def glass_blur(
  x: np.ndarray, rngs: Generators, sigma: float, reach: int, rounds: int
) -> np.ndarray:
  """Blurs, displaces pixels by at most `reach`, and blurs again.

  The paper shuffles pixels. Its code tries to swap two pixels, but swapping array views copies one
  over the other; the published images have the copies, and so does this function.
  """
  n, height, width = x.shape[:3]
  x = np.floor(255 * smooth(x, sigma) + 1e-6)
  rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
  shape = (rounds, len(rows), len(columns), 2)
  draws = np.stack([rng.integers(-reach, reach, shape) for rng in rngs], axis=-1)
  image = np.arange(n)
  for one_round in draws:
    for h, of_row in zip(rows, one_round, strict=True):
      for w, (right, down) in zip(columns, of_row, strict=True):
        x[:, h, w] = x[image, h + down, w + right]
  return smooth(x / 255, sigma)


def motion_blur(x: np.ndarray, rngs: Generators, radius: int, sigma: float) -> np.ndarray:
  """Blurs along a line at a random angle of at most 45 degrees, in steps of 1/255."""
  angle = np.array([rng.uniform(-45, 45) for rng in rngs])
  return np.round(255 * motion(x, radius, sigma, angle)) / 255


def zoom_blur(x: np.ndarray, rngs: Generators, stop: float, step: float) -> np.ndarray:
  """Averages the image and its enlargements by 1, 1 + step, ... below `stop`."""
  # The expression of the source: rounding determines whether `stop` is included.
  factors = np.arange(1, stop, step)
  total = x.copy()
  for factor in factors:
    total += clipped_zoom(x, factor)
  return total / (len(factors) + 1)
