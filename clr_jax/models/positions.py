"""Positions of image patches: fixed sine-cosine codes, and learned ones for another grid."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from clr_jax.core.types import Array

_CUBIC = -0.75  # PyTorch's coefficient of bicubic interpolation


def sine_cosine(height: int, width: int, features: int) -> np.ndarray:
  """Codes [height * width, features] of a grid's patches in row-major order, as in MoCo v3's code.

  The first half encodes the row, the second the column: sines, then cosines, of wavelengths from
  2 pi to 10,000 * 2 pi. `features` is a multiple of 4.

  Example:
    >>> sine_cosine(1, 2, 4).round(3).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.841, 0.54]]
  """
  frequency = 10_000.0 ** -(np.arange(features // 4) / (features // 4))
  rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing='ij')
  angles = (place.reshape(-1, 1) * frequency for place in (rows, columns))
  return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], 1)


def interpolate(positions: Array, height: int, width: int) -> Array:
  """Resamples learned positions [1, side^2, D] to [1, height * width, D].

  Bicubic without antialiasing, equal to `interpolate_pos_encoding` of facebookresearch/dino, whose
  scale is that of a grid larger by 0.1.
  """
  side = math.isqrt(positions.shape[1])
  if (height, width) == (side, side):
    return positions
  dtype = positions.dtype
  grid = positions.reshape(side, side, -1)
  along = (jnp.asarray(_bicubic(side, size), dtype) for size in (height, width))
  # At full precision: a grid is small, and TPUs would round the weights to bfloat16.
  resampled = jnp.einsum('yi,xj,ijd->yxd', *along, grid, precision='highest')
  return resampled.reshape(1, height * width, -1)


def _bicubic(old: int, new: int) -> np.ndarray:
  """Weights [new, old] of PyTorch's bicubic interpolation (align_corners=False) by DINO's scale."""
  source = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
  first = np.floor(source)
  t = source - first
  weights = np.zeros((new, old))
  for tap in range(-1, 3):
    x, a = abs(t - tap), _CUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    column = np.clip(first + tap, 0, old - 1).astype(int)
    np.add.at(weights, (np.arange(new), column), np.where(x <= 1, near, far))
  return weights
