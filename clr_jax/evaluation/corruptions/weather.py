"""Fog, snow and spatter. (Frost, which needs photographs, is missing.)

Functions of (x, rngs, constants of `_tables`): x [N, H, W, C] in [0, 1], one generator per image;
they return the same shape, not yet clipped. Source: Hendrycks and Dietterich (ICLR 2019).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from clr_jax.evaluation.corruptions._canny import edges
from clr_jax.evaluation.corruptions._warp import Generators, clipped_zoom, motion
from clr_jax.evaluation.corruptions.blur import smooth

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
WATER = np.array([175, 238, 238]) / 255
MUD = np.array([63, 42, 20]) / 255


def fog(x: np.ndarray, rngs: Generators, density: float, decay: float) -> np.ndarray:
  """Adds a plasma fractal cloud, and scales back to the image's maximum."""
  height, width = x.shape[1:3]
  cloud = plasma_fractal(rngs, 1 << (max(height, width) - 1).bit_length(), decay)
  top = x.max((1, 2, 3), keepdims=True)
  return (x + density * cloud[:, :height, :width, None]) * (top / (top + density))


def plasma_fractal(rngs: Generators, size: int, decay: float) -> np.ndarray:
  """Height maps [N, size, size] in [0, 1] by the diamond-square algorithm on a torus.

  Args:
    size: a power of two.
    decay: square root of the factor by which noise decreases at every halving of the step.
  """
  heights = np.zeros((len(rngs), size, size))
  noise = np.stack([rng.uniform(-1, 1, size * size) for rng in rngs])
  used, step, wobble = 0, size, 100.0

  def displaced(sums):
    nonlocal used
    count = (size // step) ** 2
    draw = noise[:, used : used + count].reshape(sums.shape)
    used += count
    return sums / 4 + wobble**2 * draw

  while step >= 2:
    half = step // 2
    corner = heights[:, ::step, ::step]
    pair = corner + np.roll(corner, -1, 1)
    middle = heights[:, half::step, half::step] = displaced(pair + np.roll(pair, -1, 2))
    # `pair` is the sum of a corner and the one below it; here first the one to its right.
    sides = middle + np.roll(middle, 1, 1) + corner + np.roll(corner, -1, 2)
    heights[:, ::step, half::step] = displaced(sides)
    heights[:, half::step, ::step] = displaced(middle + np.roll(middle, 1, 2) + pair)
    step, wobble = half, wobble / decay
  heights -= heights.min((1, 2), keepdims=True)
  return heights / heights.max((1, 2), keepdims=True)


def snow(
  x: np.ndarray,
  rngs: Generators,
  mean: float,
  scale: float,
  zoom: float,
  threshold: float,
  radius: int,
  sigma: float,
  keep: float,
) -> np.ndarray:
  """Whitens the image, and adds motion-blurred flakes and the flakes rotated by 180 degrees.

  Args:
    mean, scale, zoom, threshold: parameters of the flakes: enlarged, thresholded Gaussian noise.
    radius, sigma: parameters of their motion blur.
    keep: weight of the image against its whitened version.
  """
  draws = [(rng.normal(mean, scale, x.shape[1:3]), rng.uniform(-135, -45)) for rng in rngs]
  flakes = clipped_zoom(np.stack([d[0] for d in draws]), zoom)
  flakes = np.floor(255 * np.clip(np.where(flakes < threshold, 0, flakes), 0, 1))
  angle = np.array([d[1] for d in draws])
  flakes = np.round(motion(flakes[..., None], radius, sigma, angle)) / 255
  white = np.maximum(x, _luma(x) * 1.5 + 0.5)
  return keep * x + (1 - keep) * white + flakes + flakes[:, ::-1, ::-1]


def spatter(
  x: np.ndarray,
  rngs: Generators,
  mean: float,
  scale: float,
  sigma: float,
  threshold: float,
  strength: float,
  mud: bool,
) -> np.ndarray:
  """Adds drops of water (lighter, with a relief), or splashes of mud that cover the image.

  On images of one channel, water and mud have the luma of their colors.

  Args:
    mean, scale, sigma, threshold: parameters of the liquid: smoothed, thresholded Gaussian noise.
    strength: brightness of water, or smoothing of mud in pixels.
  """
  liquid = smooth(np.stack([rng.normal(mean, scale, x.shape[1:3]) for rng in rngs]), sigma)
  color = MUD if mud else WATER
  if x.shape[-1] == 1:
    color = _luma(color)
  if mud:
    cover = smooth((liquid > threshold).astype(float), strength)
    cover = np.where(cover < 0.8, 0, cover)[..., None]
    return x * (1 - cover) + color * cover
  liquid = np.floor(255 * np.clip(np.where(liquid < threshold, 0, liquid), 0, 1))
  light = liquid * _relief(liquid)
  peak = light.max((1, 2), keepdims=True)
  light = strength * light / np.where(peak > 0, peak, 1)
  return x + light[..., None] * color


def _relief(liquid: np.ndarray) -> np.ndarray:
  """Brightness [N, H, W] in 0..255 from the distance to the drops' rims, lit from one side."""
  distance = _distance(edges(liquid, 50, 150), 20.0)
  distance = np.floor(_box(distance) + 1e-6).astype(int)
  slope = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], float)
  lit = ndimage.correlate(_equalized(distance), slope[None], mode='mirror')
  return np.round(_box(np.clip(lit, 0, 255)))


def _distance(rims: np.ndarray, limit: float) -> np.ndarray:
  """Distance [N, H, W] of pixels from the nearest rim in the image, at most `limit`.

  Uses paths of straight, diagonal and knight's moves with OpenCV's lengths 1, 1.4 and 2.1969 (G.
  Borgefors, Distance Transformations in Digital Images, 1986). Exact distances differ little, but
  rounding and equalization amplify the difference.
  """
  moves = [(0, 1, 1.0), (1, 1, 1.4), (1, -1, 1.4), (1, 0, 1.0)]
  moves += [(r, c, 2.1969) for r, c in ((1, 2), (1, -2), (2, 1), (2, -1))]
  height, width = rims.shape[1:]
  distance = np.where(rims, 0.0, limit)
  while True:
    padded = np.pad(distance, ((0, 0), (2, 2), (2, 2)), constant_values=limit)
    nearer = distance.copy()
    for row, column, length in moves:
      for r, c in ((2 + row, 2 + column), (2 - row, 2 - column)):
        np.minimum(nearer, padded[:, r : r + height, c : c + width] + length, out=nearer)
    if (nearer == distance).all():
      return distance
    distance = nearer


def _box(x: np.ndarray) -> np.ndarray:
  return ndimage.correlate(x, np.full((1, 3, 3), 1 / 9), mode='mirror')


def _equalized(level: np.ndarray) -> np.ndarray:
  """Equalizes the histogram of each image of [N, H, W] levels in 0..255."""
  n, pixels = len(level), level[0].size
  count = np.zeros((n, 256))
  np.add.at(count, (np.arange(n)[:, None], level.reshape(n, -1)), 1)
  lowest = level.min((1, 2))[:, None]
  first = np.take_along_axis(count, lowest, 1)
  flat = first == pixels  # an image of one level stays as it is
  rank = np.round((np.cumsum(count, 1) - first) * (255 / np.where(flat, 1, pixels - first)))
  table = np.where(flat, lowest, rank)
  return np.take_along_axis(table, level.reshape(n, -1), 1).reshape(level.shape)


def _luma(x: np.ndarray) -> np.ndarray:
  """Converts [..., 3] to luma [..., 1]; keeps one channel."""
  return x if x.shape[-1] == 1 else (x * LUMA).sum(-1, keepdims=True)
