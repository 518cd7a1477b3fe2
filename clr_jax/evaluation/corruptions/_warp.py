"""Geometric transforms of a batch of images: zoom, motion and arbitrary displacement.

Every function treats each image separately, with an order of operations independent of the batch.
"""

from __future__ import annotations

import numpy as np

Generators = list[np.random.Generator]


def clipped_zoom(x: np.ndarray, factor: float) -> np.ndarray:
  """Enlarges the center of [N, H, W, ...] images by `factor` >= 1 to the same size.

  Linear interpolation with the corners aligned, as scipy.ndimage.zoom(order=1).
  """
  for axis in (1, 2):
    size = x.shape[axis]
    inner = int(np.ceil(size / factor))
    outer = round(inner * factor)
    keep = (outer - size) // 2 + np.arange(size)
    position = keep * ((inner - 1) / (outer - 1))
    low = np.minimum(np.floor(position).astype(int), inner - 1)
    shape = [1] * x.ndim
    shape[axis] = size
    weight = (position - low).reshape(shape)
    first = (size - inner) // 2
    a = x.take(first + low, axis)
    b = x.take(first + np.minimum(low + 1, inner - 1), axis)
    x = a + weight * (b - a)
  return x


def motion(x: np.ndarray, radius: int, sigma: float, angle: np.ndarray) -> np.ndarray:
  """Blurs by half a Gaussian along a line, as ImageMagick's MotionBlurImage, with repeated edges.

  Args:
    x: [N, H, W, C] images.
    radius: half-length: the line has 2 radius + 1 pixels, starting at the pixel itself.
    sigma: standard deviation of the Gaussian, pixels.
    angle: [N] degrees, clockwise from the right.
  """
  n, height, width = x.shape[:3]
  steps = np.arange(2 * radius + 1)
  kernel = np.exp(-(steps**2) / (2 * sigma**2))
  kernel /= kernel.sum()
  radian = np.deg2rad(angle)
  down = np.ceil(steps * np.sin(radian)[:, None] - 0.5).astype(int)
  right = np.ceil(steps * np.cos(radian)[:, None] - 0.5).astype(int)
  image, out = np.arange(n)[:, None, None], np.zeros_like(x)
  for i, weight in enumerate(kernel):
    row = np.clip(np.arange(height) + down[:, i, None], 0, height - 1)
    column = np.clip(np.arange(width) + right[:, i, None], 0, width - 1)
    out += weight * x[image, row[:, :, None], column[:, None, :]]
  return out


def displace(x: np.ndarray, row: np.ndarray, column: np.ndarray, *, edge_twice: bool) -> np.ndarray:
  """Samples [N, H, W, C] images at positions [N, H, W], bilinearly, reflected at the borders.

  Args:
    edge_twice: True if the reflection repeats the edge (dcba|abcd), False if not (dcb|abcd).
  """
  top, left = np.floor(row).astype(int), np.floor(column).astype(int)
  down, right = (row - top)[..., None], (column - left)[..., None]
  image = np.arange(len(x))[:, None, None]

  def at(r, c):
    return x[image, _reflect(r, x.shape[1], edge_twice), _reflect(c, x.shape[2], edge_twice)]

  above = (1 - right) * at(top, left) + right * at(top, left + 1)
  below = (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
  return (1 - down) * above + down * below


def _reflect(i: np.ndarray, size: int, edge_twice: bool) -> np.ndarray:
  if edge_twice:
    i = i % (2 * size)
    return np.minimum(i, 2 * size - 1 - i)
  i = i % (2 * size - 2)
  return np.minimum(i, 2 * size - 2 - i)
