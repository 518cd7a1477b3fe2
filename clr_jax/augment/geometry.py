"""Crops, flips, resizing and affine maps, one parameter set per image, in PIL's conventions.

Everywhere: images [B, H, W, C] float in [0, 1]; a parameter is a number or [B]. Coordinates are
pixel edges: pixel i covers [i, i + 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from clr_jax.augment.color import per_image
from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.types import Array


def _triangle(x: Array) -> Array:
  return jnp.maximum(1 - x, 0)


def keys_cubic(x: Array) -> Array:
  """Weights at distances x >= 0 of Keys' cubic with a = -0.5, as in PIL (torch uses -0.75)."""
  near = (1.5 * x - 2.5) * x * x + 1
  far = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


Resampling = Literal['bilinear', 'bicubic']
PaddingMode = Literal['constant', 'reflect']
Interpolation = Literal['nearest', 'bilinear']

_FILTERS: dict[Resampling, Callable[[Array], Array]] = {
  'bilinear': _triangle,
  'bicubic': keys_cubic,
}


def _resampling(low: Array, high: Array, size: int, out: int, method: Resampling) -> Array:
  """Matrices [B, out, size] that resample [low, high] of an axis, antialiased, from inside only."""
  step = ((high - low) / out)[:, None, None]
  center = low[:, None, None] + (jnp.arange(out, dtype=low.dtype) + 0.5)[None, :, None] * step
  pixel = (jnp.arange(size, dtype=low.dtype) + 0.5)[None, None, :]
  weight = _FILTERS[method](jnp.abs(pixel - center) / jnp.maximum(step, 1))
  inside = (pixel + 0.5 > low[:, None, None]) & (pixel - 0.5 < high[:, None, None])
  weight = jnp.where(inside, weight, 0)
  return weight / weight.sum(-1, keepdims=True)


def apply_matrices(images: Array, vertical: Array, horizontal: Array) -> Array:
  """Separable linear map: vertical [B, H', H] and horizontal [B, W', W] on images, clipped.

  Clips after each direction, as PIL's 8-bit intermediate does (only bicubic overshoots; PIL goes
  horizontally first, Pillow 13 in the cheaper order). Full float32 products, because accelerators
  round their inputs to fewer bits by default.
  """
  images = jnp.einsum('bxw,bhwc->bhxc', horizontal, images, precision=jax.lax.Precision.HIGHEST)
  images = jnp.clip(images, 0, 1)
  images = jnp.einsum('byh,bhwc->bywc', vertical, images, precision=jax.lax.Precision.HIGHEST)
  return jnp.clip(images, 0, 1)


def crop_resize(images: Array, box: Array, *, size: int, method: Resampling = 'bilinear') -> Array:
  """Cuts `box` out of each image and resizes it, antialiased: PIL's crop(box).resize().

  Args:
    images: [B, H, W, C] in [0, 1].
    box: [B, 4] left, top, right, bottom in pixels, inside the image, right > left, bottom > top.
    size: side of the square result.
    method: 'bilinear' or 'bicubic' (a = -0.5).

  Returns:
    [B, size, size, C] in [0, 1].

  Raises:
    UserError: for an unknown method.

  Source: PIL's Resample.c, as torchvision's resized_crop uses it; two batched matrices.

  Example:
    >>> images = jnp.arange(16.0).reshape(1, 4, 4, 1) / 16
    >>> crop_resize(images, jnp.array([[1, 1, 3, 3]]), size=1).item()  # the mean of four
    0.46875
  """
  check_name(get_args(Resampling), method, 'interpolation method')
  left, top, right, bottom = jnp.asarray(box, images.dtype).T
  _, height, width, _ = images.shape
  vertical = _resampling(top, bottom, height, size, method)
  horizontal = _resampling(left, right, width, size, method)
  return apply_matrices(images, vertical, horizontal)


def resize(images: Array, size: int, *, method: Resampling = 'bilinear') -> Array:
  """Resizes images of another size to [B, size, size, C], antialiased (PIL's resize).

  Example:
    >>> resize(jnp.ones([2, 8, 6, 3]), 4).shape
    (2, 4, 4, 3)
  """
  batch, height, width, _ = images.shape
  if (height, width) == (size, size):
    return images
  box = jnp.broadcast_to(jnp.array([0, 0, width, height], images.dtype)[None], (batch, 4))
  return crop_resize(images, box, size=size, method=method)


def flip(images: Array, mask: Array) -> Array:
  """Mirrors left-right where `mask` ([B] bool).

  Example:
    >>> images = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    >>> print(flip(images, jnp.array([True])).ravel())
    [1. 0.]
  """
  return jnp.where(per_image(mask, images), images[:, :, ::-1], images)


def pad_crop(
  images: Array, top: Array, left: Array, *, size: int, padding: int, mode: PaddingMode = 'constant'
) -> Array:
  """Pads by `padding` pixels and cuts the window at (top, left) of the padded image.

  Args:
    images: [B, H, W, C].
    top, left: [B] int, in [0, H + 2 padding - size] and [0, W + 2 padding - size].
    size: side of the result.
    padding: pixels on each side.
    mode: 'constant' (zeros) or 'reflect'.

  Raises:
    UserError: for an unknown mode or a window larger than the padded image.

  Example:
    >>> images = jnp.ones([1, 2, 2, 1])
    >>> corner = jnp.array([0])
    >>> pad_crop(images, corner, corner, size=2, padding=1)[0, :, :, 0].tolist()
    [[0.0, 0.0], [0.0, 1.0]]
  """
  check_name(get_args(PaddingMode), mode, 'padding mode')
  _, height, width, _ = images.shape
  if min(height, width) + 2 * padding < size:
    raise UserError(
      f'a crop of {size} does not fit a {height}x{width} image padded by {padding}: '
      'resize the images or pad more'
    )
  pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  padded = jnp.pad(images, pad, mode=mode)
  rows = top[:, None] + jnp.arange(size)[None]
  columns = left[:, None] + jnp.arange(size)[None]
  padded = jnp.take_along_axis(padded, rows[:, :, None, None], axis=1)
  return jnp.take_along_axis(padded, columns[:, None, :, None], axis=2)


class Affine(NamedTuple):
  """Where output (x, y) comes from: (xx x + xy y + x0, yx x + yy y + y0); each number [B]."""

  xx: Array
  xy: Array
  x0: Array
  yx: Array
  yy: Array
  y0: Array


def warp(
  images: Array, matrix: Affine, *, method: Interpolation = 'nearest', fill: float = 0.0
) -> Array:
  """Images seen through an affine map (PIL's Image.transform); `fill` where the source is outside.

  Raises:
    UserError: for a method other than 'nearest' and 'bilinear'.
  """
  check_name(get_args(Interpolation), method, 'interpolation method')
  batch, height, width, channels = images.shape
  m = Affine(*(per_image(v, images)[..., 0] for v in matrix))
  x = (jnp.arange(width, dtype=images.dtype) + 0.5)[None, None, :]
  y = (jnp.arange(height, dtype=images.dtype) + 0.5)[None, :, None]
  source_x = m.xx * x + m.xy * y + m.x0
  source_y = m.yx * x + m.yy * y + m.y0
  inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
  flat = images.reshape(batch, height * width, channels)

  def pick(column: Array, row: Array) -> Array:
    column = jnp.clip(column, 0, width - 1).astype(jnp.int32)
    row = jnp.clip(row, 0, height - 1).astype(jnp.int32)
    index = (row * width + column).reshape(batch, height * width, 1)
    return jnp.take_along_axis(flat, index, axis=1).reshape(images.shape)

  if method == 'nearest':
    moved = pick(jnp.floor(source_x), jnp.floor(source_y))
  else:
    x_low, y_low = jnp.floor(source_x - 0.5), jnp.floor(source_y - 0.5)
    dx, dy = (source_x - 0.5 - x_low)[..., None], (source_y - 0.5 - y_low)[..., None]
    upper = pick(x_low, y_low) * (1 - dx) + pick(x_low + 1, y_low) * dx
    lower = pick(x_low, y_low + 1) * (1 - dx) + pick(x_low + 1, y_low + 1) * dx
    moved = upper * (1 - dy) + lower * dy
  return jnp.where(inside[..., None], moved, jnp.asarray(fill, images.dtype))


def affine(
  images: Array,
  *,
  rotation: Array | float = 0.0,
  translate: tuple[Array | float, Array | float] = (0.0, 0.0),
  scale: Array | float = 1.0,
  shear: tuple[Array | float, Array | float] = (0.0, 0.0),
  method: Interpolation = 'bilinear',
  fill: float = 0.0,
) -> Array:
  """Shears, rotates and scales about the image's center, then translates.

  Args:
    images: [B, H, W, C].
    rotation: degrees, clockwise.
    translate: pixels to the right and down.
    scale: magnification, positive.
    shear: degrees in x and y.
    method: 'nearest' or 'bilinear'.
    fill: value of pixels from outside.

  Source: torchvision.transforms.functional.affine on PIL images (its inverse matrix).

  Example:
    >>> images = jnp.array([[1.0, 0.0], [0.0, 0.0]])[None, :, :, None]
    >>> turned = affine(images, rotation=90.0, method='nearest')  # clockwise
    >>> turned[0, :, :, 0].tolist()
    [[0.0, 1.0], [0.0, 0.0]]
  """
  _, height, width, _ = images.shape
  cast = lambda v: per_image(v, images)[:, 0, 0, 0]  # noqa: E731
  angle = jnp.deg2rad(cast(rotation))
  shear_x, shear_y = (jnp.deg2rad(cast(v)) for v in shear)
  shift_x, shift_y = (cast(v) for v in translate)
  factor = 1 / cast(scale)
  # Forward map R(angle) Shear, with a, b, c, d = its entries; determinant 1.
  a = jnp.cos(angle - shear_y) / jnp.cos(shear_y)
  b = -a * jnp.tan(shear_x) - jnp.sin(angle)
  c = jnp.sin(angle - shear_y) / jnp.cos(shear_y)
  d = -c * jnp.tan(shear_x) + jnp.cos(angle)
  xx, xy, yx, yy = factor * d, -factor * b, -factor * c, factor * a
  center_x, center_y = width / 2, height / 2
  x0 = center_x - xx * (center_x + shift_x) - xy * (center_y + shift_y)
  y0 = center_y - yx * (center_x + shift_x) - yy * (center_y + shift_y)
  return warp(images, Affine(xx, xy, x0, yx, yy, y0), method=method, fill=fill)
