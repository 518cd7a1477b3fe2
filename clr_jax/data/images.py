"""Encoded images -> uint8 arrays, with PIL alone."""

from __future__ import annotations

import io
import math
import os
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from clr_jax.core.errors import UserError

# PIL's 'L': ITU-R 601-2 luma, in 16-bit fixed point as its Convert.c computes it.
_LUMA = np.array([19595, 38470, 7471], np.uint32)
_BLOCK = 1024  # images converted at a time, which bounds the memory of the 32-bit copies

# Errors that PIL's format plug-ins raise for damaged files.
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError)
_MOST_PIXELS = 89_478_485  # of an image as it is decoded or resized; PIL warns above that
_MOST_ASPECT = 100  # the central square of a longer image shows next to nothing

_ALPHA = ('RGBA', 'RGBa', 'LA', 'La', 'PA')
_MODES = ('L', 'RGB', '1', 'P', 'CMYK', 'YCbCr', 'HSV', 'RGBX', *_ALPHA)  # of 8 bits or less
_ORIENTED = ('exif', 'xmp', 'XML:com.adobe.xmp', 'Raw profile type exif')

SIXTEEN_BITS = '16-bit gray is divided by 257'
TRANSPARENT = 'transparency is laid on white'
ROTATED = 'the orientation in EXIF is applied'
PAGES = 'of files with several pages the first is read'


class DamagedImage(UserError):
  """An image file that cannot be read."""


class Header(NamedTuple):
  """Header of an image file.

  Attributes:
    size: (height, width) of the image as it is decoded.
    facts: changes made by decoding, some of SIXTEEN_BITS, TRANSPARENT, ROTATED and PAGES.
  """

  size: tuple[int, int]
  facts: tuple[str, ...]


def fit(image: Image.Image, size: int | None) -> Image.Image:
  """Shorter side resized to `size` (bilinear, antialiased), then the central size x size crop."""
  if size is None or image.size == (size, size):
    return image
  width, height = _resized(*image.size, size)
  image = image.resize((width, height), Image.Resampling.BILINEAR)
  left, top = (width - size) // 2, (height - size) // 2
  return image.crop((left, top, left + size, top + size))


def reduce(image: Image.Image, most: int | None) -> Image.Image:
  """Reduces the longest side to `most` by averaging areas; returns smaller images unchanged."""
  if most is None or max(image.size) <= most:
    return image
  scale = most / max(image.size)
  width, height = (max(1, round(length * scale)) for length in image.size)
  return image.resize((width, height), Image.Resampling.BOX)


def _draft(image: Image.Image, mode: str, size: int | None, most: int | None) -> None:
  """Tells libjpeg the smallest size that is needed."""
  if size is not None:
    image.draft(mode, (size, size))
  elif most is not None and max(image.size) > most:
    scale = most / max(image.size)
    image.draft(mode, tuple(math.ceil(length * scale) for length in image.size))  # type: ignore


def decode(
  encoded: str | os.PathLike | bytes,
  channels: int,
  size: int | None,
  where: str,
  *,
  as_shown: bool = False,
  most: int | None = None,
) -> np.ndarray:
  """One image as uint8 [H, W, channels] (1 = gray, 3 = RGB), fitted to `size` unless it is None.

  JPEGs much larger than needed are decoded at the next larger of libjpeg's reduced scales, as it
  is several times faster. Gray of 16 bits becomes x / 257, rounded.

  Args:
    encoded: path or content of the file.
    channels: 1 or 3.
    size: see `fit`.
    where: names the image in errors.
    as_shown: turns the image as its EXIF data say and lays it on white where it is transparent;
      False leaves both out, as TensorFlow's decoders do.
    most: without a `size`, longest side: a larger image is reduced to it by area, in its aspect.

  Raises:
    DamagedImage: the image cannot be read; the message says `where`.
    UserError: its pixels are neither 8 nor 16 bits, or it is so large or long that it would
      fill the memory; the message says `where`.
  """
  mode = 'L' if channels == 1 else 'RGB'
  try:
    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
      _draft(image, mode, size, most)
      _check(image, size, where, most)
      upright = _upright(image) if as_shown else image
      array = np.asarray(reduce(fit(_convert(upright, mode, where, as_shown), size), most))
  except Image.DecompressionBombError as error:
    raise UserError(f'the image {where} is too large ({error}): shrink or remove it') from error
  except _DAMAGED as error:
    raise _damaged(where, error) from error
  return array.reshape(*array.shape[:2], channels)


def read_header(
  encoded: str | bytes, size: int | None = None, where: str = '', *, most: int | None = None
) -> Header:
  """Reads the header; checks it as `decode(..., as_shown=True)` does.

  Args:
    encoded: path or content of the file.
    size: see `fit`.
    where: names the image in errors; '' = the path.
    most: see `decode`.

  Raises:
    DamagedImage: the header cannot be read; the message says `where`.
    UserError: the image is refused because of its header.
  """
  path = where or str(encoded)
  try:
    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
      width, height = image.size
      _draft(image, 'RGB', size, most)
      _check(image, size, path, most)
      facts = {
        SIXTEEN_BITS: _is_deep(image),
        TRANSPARENT: _is_transparent(image),
        ROTATED: (orientation := _orientation(image)) > 1,
        PAGES: image.format == 'TIFF' and getattr(image, 'n_frames', 1) > 1,
      }
      # PIL gives the size of a TIFF as it will be when it is turned.
      across = orientation >= 5 and image.format != 'TIFF'
      known = tuple(fact for fact, holds in facts.items() if holds)
      return Header((width, height) if across else (height, width), known)
  except Image.DecompressionBombError as error:
    raise UserError(f'the image {path} is too large ({error}): shrink or remove it') from error
  except _DAMAGED as error:
    raise _damaged(path, error) from error


def encoded_size(encoded: bytes) -> tuple[int, int]:
  """(height, width) of an encoded image, by its header.

  Raises:
    DamagedImage: the header cannot be read.
  """
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      return image.size[1], image.size[0]
  except _DAMAGED as error:
    raise _damaged('in the data set', error) from error


def largest_value(path: str) -> int:
  """The largest value of an image as it is stored, before any conversion.

  Raises:
    DamagedImage: it cannot be read.
  """
  try:
    with Image.open(path) as image:
      return int(np.asarray(image).max())
  except _DAMAGED as error:
    raise _damaged(path, error) from error


def _damaged(where: str, error: Exception) -> DamagedImage:
  reason = error.strerror if isinstance(error, OSError) and error.strerror else error
  return DamagedImage(
    f'cannot read the image {where} ({reason}): repair or remove it, then run again'
  )


# ---------------------------------------------------------------- refusals
def _check(image: Image.Image, size: int | None, where: str, most: int | None) -> None:
  """Raises UserError for an image that cannot be converted to 8 bits, or would fill the memory."""
  if image.mode not in _MODES and not _is_deep(image):
    kind = 'floats' if image.mode == 'F' else f"PIL's mode {image.mode}"
    raise UserError(
      f'the image {where} has pixels of {kind}, whose range is not known: convert it to RGB or '
      'to gray of 8 or 16 bits, or remove it'
    )
  _check_shape(image.width, image.height, size, where)
  if most is not None and max(image.size) > _MOST_ASPECT * min(image.size):
    raise UserError(
      f'the image {where} has {image.width}x{image.height} pixels, and its views would be one '
      f'pixel high or wide: crop it or remove it'
    )


def _check_shape(width: int, height: int, size: int | None, where: str) -> None:
  """Raises UserError for an image that would fill the memory, as stored or after resizing.

  Args:
    width, height: in pixels.
    size: see `fit`.
    where: names the image.
  """
  if width * height > _MOST_PIXELS:
    raise UserError(
      f'the image {where} has {width}x{height} pixels, more than {_MOST_PIXELS // 10**6} million: '
      'shrink or remove it'
    )
  if size is None or (width, height) == (size, size):
    return
  new = _resized(width, height, size)
  if new[0] * new[1] > _MOST_PIXELS or max(new) > _MOST_ASPECT * min(new):
    raise UserError(
      f'the image {where} has {width}x{height} pixels, {new[0]}x{new[1]} when its shorter side is '
      f'resized to image_size={size}: crop it or remove it'
    )


def _resized(width: int, height: int, size: int) -> tuple[int, int]:
  scale = size / min(width, height)
  return max(size, round(width * scale)), max(size, round(height * scale))


# ---------------------------------------------------------------- conversions
def _is_deep(image: Image.Image) -> bool:
  """True if pixels are integers of more than 8 bits."""
  return image.mode == 'I' or image.mode.startswith('I;16')


def _is_transparent(image: Image.Image) -> bool:
  return image.mode in _ALPHA or 'transparency' in image.info


def _orientation(image: Image.Image) -> int:
  """EXIF's orientation, 1 to 8; 1 is upright. Damaged EXIF data count as none."""
  try:
    if image.format == 'TIFF' or any(key in image.info for key in _ORIENTED):
      value = image.getexif().get(ExifTags.Base.Orientation, 1)
      return value if value in range(1, 9) else 1
  except Exception:  # of many types; the pixels are whole
    pass
  return 1


def _upright(image: Image.Image) -> Image.Image:
  image.load()  # turns a TIFF; some formats have their EXIF data at the end
  return ImageOps.exif_transpose(image) if _orientation(image) > 1 else image


def _convert(image: Image.Image, mode: str, where: str, as_shown: bool) -> Image.Image:
  if _is_deep(image):
    image = _of_8_bits(image, where)
  elif as_shown and _is_transparent(image):
    color = image.convert('RGBA')
    image = Image.alpha_composite(Image.new('RGBA', color.size, 'white'), color).convert('RGB')
  return image if image.mode == mode else image.convert(mode)


def _of_8_bits(image: Image.Image, where: str) -> Image.Image:
  values = np.asarray(image).astype(np.int64)
  low, high = values.min(), values.max()
  if low < 0 or high > 65535:
    raise UserError(
      f'the image {where} has values from {low} to {high}, beyond 16 bits: convert it to 8 or 16 '
      'bits, or remove it'
    )
  return Image.fromarray(((values + 128) // 257).astype(np.uint8))


# ---------------------------------------------------------------- arrays
def fit_arrays(
  images: np.ndarray, size: int | None, channels: int | None = None, *, where: str = 'array'
) -> np.ndarray:
  """uint8 [N, H, W, C] -> [N, size, size, channels], each image as `decode` would give it.

  Args:
    images: C is 1 or 3.
    size: see `fit`; None keeps H and W.
    channels: see `with_channels`; None keeps C.
    where: names the images.

  Raises:
    UserError: the resized images would fill the memory.
  """
  _check_shape(images.shape[2], images.shape[1], size, where)
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
