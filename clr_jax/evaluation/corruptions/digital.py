"""Brightness, contrast, saturation, elastic transform, pixelation, JPEG.

Functions of (x, rngs, constants of `_tables`): x [N, H, W, C] in [0, 1], one generator per image;
they return the same shape, not yet clipped. Source: Hendrycks and Dietterich (ICLR 2019).
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from clr_jax.evaluation.corruptions._warp import Generators, displace


def contrast(x: np.ndarray, rngs: Generators, factor: float) -> np.ndarray:
  """Shrinks the distance of every value to the image's mean, channel by channel."""
  # A sum of integers does not depend on the order, and so not on the batch.
  mean = np.round(255 * x).sum((1, 2), keepdims=True) / (255 * x.shape[1] * x.shape[2])
  return (x - mean) * factor + mean


def brightness(x: np.ndarray, rngs: Generators, shift: float) -> np.ndarray:
  """Adds `shift` to the V of HSV: scales the pixel, or lifts black to gray."""
  value = x.max(-1, keepdims=True)
  new = np.minimum(value + shift, 1)
  return np.where(value > 0, x * (new / np.where(value > 0, value, 1)), new)


def saturate(x: np.ndarray, rngs: Generators, factor: float, shift: float) -> np.ndarray:
  """Multiplies the S of HSV and adds `shift`; gray has the hue of red, as in scikit-image."""
  value = x.max(-1, keepdims=True)
  depth = value - x
  chroma = depth.max(-1, keepdims=True)
  gray = chroma == 0
  old = np.where(gray, 0, chroma / np.where(value > 0, value, 1))
  new = np.clip(factor * old + shift, 0, 1)
  share = np.where(gray, np.array([0.0, 1.0, 1.0]), depth / np.where(gray, 1, chroma))
  return value * (1 - new * share)


def elastic_transform(
  x: np.ndarray, rngs: Generators, strength: float, sigma: float, affine: float
) -> np.ndarray:
  """Applies a random affine map of three points, then a smooth random displacement field.

  Args:
    strength, sigma, affine: scale of the displacement, its smoothing, and largest shift of the
      three points along each axis, as fractions of the shorter side.
  """
  height, width = x.shape[1:3]
  side = min(height, width)
  center, arm = np.array([width // 2, height // 2], float), side // 3
  points = center + arm * np.array([[1, 1], [1, -1], [-1, -1]])
  noise = (3, 2), (2, height, width)
  draws = [[rng.uniform(-1, 1, shape) for shape in noise] for rng in rngs]
  moved = points + affine * side * np.stack([d[0] for d in draws])
  ones = np.ones((len(x), 3, 1))
  back = np.linalg.solve(  # from moved to original points: [N, 3, 2]
    np.concatenate([moved, ones], -1), np.broadcast_to(points, moved.shape)
  )[:, None, None]
  row, column = (a.astype(float) for a in np.mgrid[:height, :width])
  x = displace(
    x,
    column * back[..., 0, 1] + row * back[..., 1, 1] + back[..., 2, 1],
    column * back[..., 0, 0] + row * back[..., 1, 0] + back[..., 2, 0],
    edge_twice=False,
  )
  field = np.stack([d[1] for d in draws])
  sigmas = (0, 0, sigma * side, sigma * side)
  field = strength * side * ndimage.gaussian_filter(field, sigmas, mode='reflect', truncate=3.0)
  return displace(x, row + field[:, 1], column + field[:, 0], edge_twice=True)


def pixelate(x: np.ndarray, rngs: Generators, factor: float) -> np.ndarray:
  """Shrinks by box averages and enlarges by repetition."""
  height, width = x.shape[1:3]
  small = int(width * factor), int(height * factor)
  box = Image.Resampling.BOX
  return _with_pillow(x, lambda im: im.resize(small, box).resize((width, height), box))


def jpeg_compression(x: np.ndarray, rngs: Generators, quality: int) -> np.ndarray:
  """Encodes as JPEG and decodes."""

  def through(image):
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=quality)
    return Image.open(file)

  return _with_pillow(x, through)


def _with_pillow(x: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
  whole = np.round(255 * x).astype(np.uint8)
  images = whole[..., 0] if x.shape[-1] == 1 else whole
  changed = [np.asarray(change(Image.fromarray(image))) for image in images]
  return np.stack(changed).reshape(x.shape) / 255
