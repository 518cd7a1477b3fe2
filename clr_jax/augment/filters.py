"""Gaussian blur, sharpness and noise. Images [B, H, W, C] float in [0, 1] throughout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from clr_jax.augment.color import blend, per_image
from clr_jax.augment.geometry import apply_matrices
from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.types import Array

Per = Literal['pixel', 'element']


def _blur_matrices(sigma: Array, size: int, radius: int) -> Array:
  """Banded matrices [B, size, size]: a Gaussian of `radius` taps each side, borders reflected."""
  i = jnp.arange(size)[None, :, None]
  j = jnp.arange(size)[None, None, :]

  def taps(offset: Array) -> Array:
    offset = jnp.broadcast_to(offset, (1, size, size))
    weight = jnp.exp(-0.5 * (offset.astype(sigma.dtype) / sigma[:, None, None]) ** 2)
    return jnp.where(jnp.abs(offset) <= radius, weight, 0)

  # A source pixel j is met directly and, near a border, as its mirror images -j and 2 (size-1) - j.
  matrix = taps(i - j)
  matrix += jnp.where(j > 0, taps(i + j), 0)
  matrix += jnp.where(j < size - 1, taps(i + j - 2 * (size - 1)), 0)
  return matrix / matrix.sum(-1, keepdims=True)


def gaussian_blur(images: Array, sigma: Array | float, *, kernel_size: int) -> Array:
  """Gaussian blur with one sigma per image.

  Args:
    images: [B, H, W, C].
    sigma: [B] or a number, in pixels, positive.
    kernel_size: odd number of taps; half of it must be smaller than the image (reflected borders).

  Raises:
    UserError: for an even kernel, or one too large for the image.

  Source: torchvision.transforms.functional.gaussian_blur.

  Example:
    >>> point = jnp.zeros([1, 5, 5, 1]).at[0, 2, 2, 0].set(1.0)
    >>> blurred = gaussian_blur(point, 1.0, kernel_size=3)
    >>> print(f'{blurred.sum():.4f} {blurred.max():.4f}')
    1.0000 0.2042
  """
  _, height, width, _ = images.shape
  radius = kernel_size // 2
  if kernel_size % 2 == 0 or radius >= min(height, width):
    raise UserError(
      f'Blur kernel_size {kernel_size} must be odd and at most {2 * min(height, width) - 1} '
      f'for {height}x{width} images'
    )
  sigma = per_image(sigma, images)[:, 0, 0, 0]
  vertical = _blur_matrices(sigma, height, radius)
  horizontal = _blur_matrices(sigma, width, radius)
  return apply_matrices(images, vertical, horizontal)


def smooth(images: Array) -> Array:
  """PIL's ImageFilter.SMOOTH: 3x3 mean with a center of weight 5; border pixels are kept."""
  height, width = images.shape[1:3]
  if min(height, width) < 3:
    return images
  columns = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
  total = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:]
  inner = (total + 4 * images[:, 1:-1, 1:-1]) / 13
  return jnp.asarray(images).at[:, 1:-1, 1:-1].set(inner)


def adjust_sharpness(images: Array, factor: Array | float) -> Array:
  """Blends with the smoothed image: 0 smooth, 1 the image, above 1 sharper (PIL's Sharpness).

  Example:
    >>> images = jnp.zeros([1, 3, 3, 1]).at[0, 1, 1, 0].set(1.0)
    >>> print(f'{adjust_sharpness(images, 0.0).max():.4f}')  # smooth: 5 of 13
    0.3846
  """
  return blend(images, smooth(images), factor)


def drawn(key: Array, p: float, images: Array) -> Array:
  """True with probability p for each image: [B]."""
  return jax.random.uniform(key, images.shape[:1], jnp.float32) < p


def where_drawn(key: Array, p: float, changed: Array, images: Array) -> Array:
  """`changed` for each image with probability p, else `images`."""
  return jnp.where(per_image(drawn(key, p, images), images), changed, images)


def gaussian_noise(
  key: Array,
  images: Array,
  *,
  sigma: float | None = None,
  variance: float | None = None,
  p: float = 0.5,
  clip_normalized: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Array:
  """Adds N(0, sigma^2) to every element of an image with probability p, then clips to [0, 1].

  Args:
    key: PRNG key.
    images: [B, H, W, C] in [0, 1].
    sigma: standard deviation; give exactly one of `sigma` and `variance`.
    variance: its square. The TAMU SogCLR report says "sigma^2 = 9/10000" and "2/255" without
      naming the quantity; therefore both exist, without a default.
    p: probability per image. 0.5 is the report's, there drawn once per batch.
    clip_normalized: (mean, std), each [C]: the noise is added to (x - mean) / std, clipped to
      [-1, 1] and mapped back, which is what the report's skimage call did (it destroys contrast).
      Both must keep mean +- std inside [0, 1].

  Raises:
    UserError: unless exactly one of sigma and variance is given.

  Example:
    >>> images = jnp.full([2, 8, 8, 1], 0.5)
    >>> noisy = gaussian_noise(jax.random.key(0), images, sigma=0.1, p=1.0)
    >>> bool(abs(noisy.std() - 0.1) < 0.02)
    True
  """
  if sigma is not None and variance is None:
    std = sigma
  elif variance is not None and sigma is None:
    std = variance**0.5
  else:
    raise UserError('give exactly one of sigma and variance to gaussian_noise')
  noise_key, p_key = jax.random.split(key)
  noise = std * jax.random.normal(noise_key, images.shape, jnp.float32)
  if clip_normalized is None:
    noisy = images + noise
  else:
    center, scale = (jnp.asarray(v, images.dtype)[None, None, None] for v in clip_normalized)
    noisy = jnp.clip((images - center) / scale + noise, -1, 1) * scale + center
  return where_drawn(p_key, p, jnp.clip(noisy, 0, 1).astype(images.dtype), images)


def salt_and_pepper(
  key: Array,
  images: Array,
  *,
  amount: float = 0.05,
  salt_ratio: float = 0.5,
  p: float = 0.5,
  per: Per = 'pixel',
) -> Array:
  """Sets a share `amount` of an image to 1 (salt) or 0 (pepper), with probability p per image.

  Args:
    key: PRNG key.
    images: [B, H, W, C] in [0, 1].
    amount: share of positions replaced; 0.05 and ratio 0.5 are skimage.util.random_noise's.
    salt_ratio: share of salt among them ("50-50" in the TAMU SogCLR report).
    p: probability per image.
    per: 'pixel' replaces all channels together, 'element' each by itself (skimage).

  Raises:
    UserError: for another `per`.

  Example:
    >>> images = jnp.full([1, 8, 8, 1], 0.5)
    >>> noisy = salt_and_pepper(jax.random.key(0), images, amount=1.0, p=1.0)
    >>> sorted(set(noisy.ravel().tolist()))
    [0.0, 1.0]
  """
  check_name(get_args(Per), per, 'unit of salt_and_pepper')
  noise_key, p_key = jax.random.split(key)
  shape = images.shape if per == 'element' else (*images.shape[:3], 1)
  draw = jnp.broadcast_to(jax.random.uniform(noise_key, shape, jnp.float32), images.shape)
  # One draw decides both: below amount * salt_ratio is salt, then pepper up to amount.
  noisy = jnp.where(draw < amount, 0, images)
  noisy = jnp.where(draw < amount * salt_ratio, 1, noisy)
  return where_drawn(p_key, p, noisy, images)
