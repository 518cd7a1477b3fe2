"""Encoded images -> uint8 arrays of one size, with PIL alone."""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image

from clr_jax.core.errors import UserError

# PIL's 'L': ITU-R 601-2 luma, in 16-bit fixed point as its Convert.c computes it.
_LUMA = np.array([19595, 38470, 7471], np.uint32)
_BLOCK = 1024  # images converted at a time, which bounds the memory of the 32-bit copies

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
  """One image as uint8 [H, W, channels] (1 = gray, 3 = RGB), fitted to `size` unless it is None.

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


def fit_arrays(images: np.ndarray, size: int | None, channels: int | None = None) -> np.ndarray:
  """uint8 [N, H, W, C] -> [N, size, size, channels], each image as `decode` would give it.

  Args:
    images: C is 1 or 3.
    size: see `fit`; None keeps H and W.
    channels: see `with_channels`; None keeps C.
  """
  if channels == 1:
    images = with_channels(images, 1)  # before resizing, as `decode` does
  images = _fit_each(images, size)
  return images if channels is None else with_channels(images, channels)


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
  """uint8 [N, H, W, C] -> [N, H, W, channels] to the bit as PIL's modes L and RGB do; 1 or 3."""
  if images.shape[3] == channels:
    return images
  if channels == 3:
    return np.repeat(images, 3, axis=3)
  gray = np.empty((*images.shape[:3], 1), np.uint8)
  for start in range(0, len(images), _BLOCK):
    rows = slice(start, start + _BLOCK)
    gray[rows, ..., 0] = (images[rows].astype(np.uint32) @ _LUMA + 0x8000) >> 16
  return gray


def _fit_each(images: np.ndarray, size: int | None) -> np.ndarray:
  if size is None or images.shape[1:3] == (size, size):
    return images
  out = np.empty((len(images), size, size, images.shape[3]), np.uint8)
  for i, image in enumerate(images):
    fitted = np.asarray(fit(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), size))
    out[i] = fitted.reshape(out.shape[1:])
  return out
