"""Pixel-value operations, one parameter per image, as in PIL's ImageEnhance and ImageOps.

Everywhere: images [B, H, W, C] float in [0, 1], C = 1 or 3; a parameter is a number or [B]. Only
`posterize` and `equalize` look at 8-bit levels, the others keep the float resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array

# ITU-R 601, what PIL's convert('L') uses. torchvision's tensors round the first weight to 0.2989.
_LUMA = (0.299, 0.587, 0.114)


def per_image(value: Array | float, images: Array) -> Array:
  """A number or [B] as [B, 1, 1, 1], to be combined with [B, H, W, C] images."""
  value = jnp.asarray(value)
  if jnp.issubdtype(value.dtype, jnp.inexact):
    value = value.astype(images.dtype)
  return jnp.broadcast_to(value, images.shape[:1])[:, None, None, None]


def luma(images: Array) -> Array:
  """Brightness [B, H, W, 1] of each pixel (ITU-R 601 weights); gray images are kept."""
  return images if images.shape[-1] == 1 else luma_of_planes(planes_of(images))


def planes_of(images: Array) -> list[Array]:
  """The channels of [..., C] as C arrays [..., 1]."""
  return [images[..., i : i + 1] for i in range(images.shape[-1])]


def luma_of_planes(planes: Sequence[Array]) -> Array:
  """`luma` of red, green and blue, or of whole images as the only array."""
  if len(planes) == 1:
    return luma(planes[0])
  r, g, b = planes
  return _LUMA[0] * r + _LUMA[1] * g + _LUMA[2] * b


def changed_by_planes(
  change: Callable[[list[Array]], list[Array]], chosen: Array, images: Array
) -> Array:
  """`change` of the images of `chosen` [B], the others as they are.

  On GPUs and TPUs the color planes are separate arrays of all pixels: a kernel then reads three
  planes and writes three, and a TPU's rows of 128 numbers are full. On CPUs this is slower, and
  `change` gets the whole images as the only array.
  """

  def changed(planes: list[Array]) -> list[Array]:
    pairs = zip(change(planes), planes, strict=True)
    return [jnp.where(per_image(chosen, old), new, old) for new, old in pairs]

  def whole(images: Array) -> Array:
    return changed([images])[0]

  def by_planes(images: Array) -> Array:
    pixels = images.reshape(len(images), 1, -1, images.shape[-1])
    return jnp.concatenate(changed(planes_of(pixels)), -1).reshape(images.shape)

  return jax.lax.platform_dependent(images, cpu=whole, default=by_planes)


def mean_luma(images: Array) -> Array:
  """Mean brightness [B, 1, 1, 1] of each image."""
  return luma(images).mean((1, 2), keepdims=True)


def blend(images: Array, other: Array | float, factor: Array | float) -> Array:
  """other + factor (images - other), clipped to [0, 1]; factor 1 gives exactly `images`."""
  factor = per_image(factor, images)
  other = jnp.broadcast_to(jnp.asarray(other, images.dtype), images.shape)
  return jnp.clip(factor * images + (1 - factor) * other, 0, 1)


def adjust_brightness(images: Array, factor: Array | float) -> Array:
  """Blends with black: 0 is black, 1 the image, above 1 brighter (PIL ImageEnhance.Brightness).

  Example:
    >>> adjust_brightness(jnp.full([1, 1, 1, 1], 0.5), 0.5).item()
    0.25
  """
  return blend(images, 0.0, factor)


def adjust_contrast(images: Array, factor: Array | float) -> Array:
  """Blends with the image's mean brightness (PIL ImageEnhance.Contrast, its mean not rounded).

  Example:
    >>> images = jnp.array([0.25, 0.75]).reshape(1, 1, 2, 1)
    >>> print(adjust_contrast(images, 0.5).ravel())  # half of the way to the mean
    [0.375 0.625]
  """
  return blend(images, mean_luma(images), factor)


def adjust_saturation(images: Array, factor: Array | float) -> Array:
  """Blends with the gray image (PIL ImageEnhance.Color); identity for one channel.

  Example:
    >>> red = jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
    >>> [f'{value:.3f}' for value in adjust_saturation(red, 0.0).ravel()]
    ['0.299', '0.299', '0.299']
  """
  return images if images.shape[-1] == 1 else blend(images, luma(images), factor)


def adjust_hue(images: Array, shift: Array | float) -> Array:
  """Turns the HSV hue by `shift` of a full circle, in [-0.5, 0.5]; identity for one channel.

  HSV as in PIL and torchvision; the inverse is the closed form
  v - (max - min) clip(min(k, 4 - k), 0, 1), k = (n + 6 hue) mod 6 with n = 5, 3, 1 for R, G, B.

  Example:
    >>> red = jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
    >>> [f'{value:.3f}' for value in adjust_hue(red, 1 / 3).ravel()]  # green
    ['0.000', '1.000', '0.000']
  """
  if images.shape[-1] == 1:
    return images
  return jnp.concatenate(hue_of_planes(planes_of(images), shift), -1)


def hue_of_planes(planes: Sequence[Array], shift: Array | float) -> list[Array]:
  """`adjust_hue` of red, green and blue [B, H, W, 1], or of whole images as the only array."""
  if len(planes) == 1:
    return [adjust_hue(planes[0], shift)]
  r, g, b = planes
  top = jnp.maximum(jnp.maximum(r, g), b)
  chroma = top - jnp.minimum(jnp.minimum(r, g), b)
  scale = 1 / jnp.where(chroma > 0, chroma, 1)
  # Not top == r: a compiler that computes r twice may round it in two ways.
  sector = jnp.where(
    (r >= g) & (r >= b),
    (g - b) * scale,
    jnp.where(g >= b, 2 + (b - r) * scale, 4 + (r - g) * scale),
  )
  sector = sector + 6 * per_image(shift, r)

  def channel(n: float) -> Array:
    k = jnp.mod(n + sector, 6.0)
    return jnp.clip(top - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1), 0, 1)

  return [channel(5.0), channel(3.0), channel(1.0)]


def grayscale(images: Array) -> Array:
  """Replaces every channel by the brightness and keeps the number of channels.

  Example:
    >>> green = jnp.array([0.0, 1.0, 0.0]).reshape(1, 1, 1, 3)
    >>> [f'{value:.3f}' for value in grayscale(green).ravel()]
    ['0.587', '0.587', '0.587']
  """
  return jnp.broadcast_to(jnp.clip(luma(images), 0, 1), images.shape)


def gray_planes(planes: Sequence[Array]) -> list[Array]:
  """`grayscale` of red, green and blue [B, H, W, 1], or of whole images as the only array."""
  if len(planes) == 1:
    return [grayscale(planes[0])]
  return [jnp.clip(luma_of_planes(planes), 0, 1)] * len(planes)


def invert(images: Array) -> Array:
  """1 - images.

  Example:
    >>> invert(jnp.full([1, 1, 1, 1], 0.25)).item()
    0.75
  """
  return 1 - images


def solarize(images: Array, threshold: Array | float) -> Array:
  """Inverts the pixels at or above `threshold` in [0, 1] (0.5 is PIL's 128).

  Example:
    >>> images = jnp.array([0.25, 0.75]).reshape(1, 1, 2, 1)
    >>> print(solarize(images, 0.5).ravel())
    [0.25 0.25]
  """
  return jnp.where(images >= per_image(threshold, images), 1 - images, images)


def posterize(images: Array, bits: Array | int) -> Array:
  """Keeps the `bits` (0 to 8) highest bits of the 8-bit levels (PIL ImageOps.posterize).

  Example:
    >>> images = jnp.array([100.0, 200.0]).reshape(1, 1, 2, 1) / 255
    >>> print((posterize(images, 1) * 255).round().ravel())
    [  0. 128.]
  """
  step = per_image(jnp.exp2(8.0 - jnp.asarray(bits)), images)
  return jnp.floor(jnp.round(images * 255) / step) * step / 255


def autocontrast(images: Array) -> Array:
  """Stretches each channel of each image to [0, 1]; a constant channel stays as it is.

  Example:
    >>> images = jnp.array([0.25, 0.5, 0.75]).reshape(1, 1, 3, 1)
    >>> print(autocontrast(images).ravel())
    [0.  0.5 1. ]
  """
  low = images.min((1, 2), keepdims=True)
  high = images.max((1, 2), keepdims=True)
  span = high - low
  stretched = (images - low) / jnp.where(span > 0, span, 1)
  return jnp.where(span > 0, stretched, images)


def equalize(images: Array) -> Array:
  """Flattens the histogram of the 8-bit levels of each channel (PIL ImageOps.equalize).

  Example:
    >>> images = jnp.linspace(0, 0.5, 1024).reshape(1, 32, 32, 1)
    >>> equalize(images).max().item()
    1.0
  """
  b, h, w, c = images.shape
  levels = jnp.round(jnp.moveaxis(images, 3, 1).reshape(b * c, h * w) * 255).astype(jnp.int32)
  # vmap makes this a batched scatter, which stays on the device of its image; explicit row indices
  # would all-reduce the histograms of the global batch.
  counts = jax.vmap(lambda row: jnp.zeros(256, jnp.int32).at[row].add(1))(levels)
  last = jnp.take_along_axis(counts, levels.max(1, keepdims=True), axis=1)
  step = (
    h * w - last
  ) // 255  # 0 where the channel is (nearly) constant, which leaves it unchanged
  below = jnp.cumsum(counts, 1) - counts
  table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
  equalized = jnp.take_along_axis(table, levels, axis=1)
  chosen = jnp.where(step > 0, equalized, levels).astype(images.dtype) / 255
  return jnp.moveaxis(chosen.reshape(b, c, h, w), 1, 3)
