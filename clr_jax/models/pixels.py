"""Normalization of pixels, the first layer of every backbone."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array


def normalize_pixels(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
  """Subtracts the mean and divides by the standard deviation of each channel.

  Args:
    images: [B, H, W, C] float in [0, 1].
    mean, std: one value for all channels or one each.

  Returns:
    [B, H, W, C] in float32 or wider.

  Raises:
    UserError: integer images, or another number of values than channels.
  """
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(f'a backbone takes float images in [0, 1], not {images.dtype}: divide by 255')
  for name, values in (('mean', mean), ('std', std)):
    if len(values) not in (1, images.shape[-1]):
      raise UserError(
        f'the pixel {name} has {len(values)} values but the images have {images.shape[-1]} '
        'channels: give one value, or one per channel'
      )
  x = images.astype(jnp.promote_types(images.dtype, jnp.float32))
  shift, scale = (jnp.asarray(v, x.dtype).reshape(1, 1, 1, -1) for v in (mean, std))
  return (x - shift) / scale
