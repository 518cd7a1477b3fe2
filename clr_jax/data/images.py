"""Encoded images -> uint8 arrays of one size, with PIL alone."""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image

from clr_jax.types import UserError

# What PIL raises for damaged files: its format plug-ins are not consistent.
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def fit(image: Image.Image, size: int | None) -> Image.Image:
  """Shorter side resized to `size` (bilinear, antialiased), then the central size x size crop."""
  if size is None or image.size == (size, size):
    return image
  width, height = image.size
  scale = size / min(width, height)
  width, height = max(size, round(width * scale)), max(size, round(height * scale))
  image = image.resize((width, height), Image.Resampling.BILINEAR)
  left, top = (width - size) // 2, (height - size) // 2
  return image.crop((left, top, left + size, top + size))


def decode(encoded: str | os.PathLike | bytes, channels: int, size: int | None, where: str):
  """One image as uint8 [H, W, channels] (1 = grey, 3 = RGB), fitted to `size` unless it is None.

  JPEGs much larger than `size` are decoded at the next larger of libjpeg's reduced scales, as it
  is several times faster.

  Raises:
    UserError: the image cannot be read; the message says `where`.
  """
  mode = 'L' if channels == 1 else 'RGB'
  try:
    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
      if size is not None:
        image.draft(mode, (size, size))
      array = np.asarray(fit(image if image.mode == mode else image.convert(mode), size))
  except _DAMAGED as error:
    raise UserError(
      f'cannot read the image {where} ({error}): repair or remove it, then run again'
    ) from error
  return array.reshape(*array.shape[:2], channels)


def image_size_of(path: str, where: str) -> tuple[int, int]:
  """(height, width) from the header alone.

  Raises:
    UserError: the header cannot be read; the message says `where`.
  """
  try:
    with Image.open(path) as image:
      return image.height, image.width
  except _DAMAGED as error:
    raise UserError(
      f'cannot read the image {where} ({error}): repair or remove it, then run again'
    ) from error


def fit_arrays(images: np.ndarray, size: int | None) -> np.ndarray:
  """uint8 [N, H, W, C] -> [N, size, size, C] by `fit`, image by image; C is 1 or 3."""
  if size is None or images.shape[1:3] == (size, size):
    return images
  out = np.empty((len(images), size, size, images.shape[3]), np.uint8)
  for i, image in enumerate(images):
    fitted = np.asarray(fit(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), size))
    out[i] = fitted.reshape(out.shape[1:])
  return out
