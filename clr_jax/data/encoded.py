"""Sources of encoded images, decoded when asked for: to one size, or whole onto canvases."""

from __future__ import annotations

import abc
from collections.abc import Iterable

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.data import images as images_lib
from clr_jax.data.base import Source
from clr_jax.data.whole import Loaded


class EncodedSource(Source):
  """A source that reads the files or records of images.

  Attributes:
    as_shown: see `images.decode`.
    image_size: side of the squares that images are fitted to; None keeps their sizes.
  """

  as_shown: bool
  image_size: int | None

  @abc.abstractmethod
  def _encoded(
    self, rows: np.ndarray
  ) -> tuple[Iterable[tuple[str | bytes, str]], np.ndarray | None]:
    """(path or content, its name in errors) of the image of each stored row; the labels."""

  def encoded(self, indices: np.ndarray) -> Iterable[tuple[str | bytes, str]]:
    """Yields (path or content, name in errors) of the image of each of `indices`."""
    return self._encoded(self._rows[indices])[0]

  def decode_only(self, indices: np.ndarray) -> list[np.ndarray]:
    """Decodes the images of `indices` at their own size, uint8 [H, W, C]; for timings."""
    return [
      images_lib.decode(encoded, self.image_shape[2], None, where, as_shown=self.as_shown)
      for encoded, where in self.encoded(indices)
    ]

  def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    images = np.empty((len(rows), *self.image_shape), np.uint8)
    found, labels = self._encoded(rows)
    for i, (encoded, where) in enumerate(found):
      image = self._decode(encoded, where)
      if image.shape != self.image_shape:
        own, others = (f'{shape[1]}x{shape[0]}' for shape in (image.shape, self.image_shape))
        raise UserError(
          f'the image {where} is {own} and the others are {others}: set data.image_size or '
          f'data.canvas, or remove it'
        )
      images[i] = image
    return images, labels

  def _read_whole(self, rows: np.ndarray) -> Loaded:
    if self.whole is None:
      return super()._read_whole(rows)
    images = np.zeros((len(rows), *self.stored_shape), np.uint8)
    extents = np.empty((len(rows), 2), np.int32)
    found, labels = self._encoded(rows)
    for i, (encoded, where) in enumerate(found):
      image = self._decode(encoded, where)
      height, width, _ = image.shape
      images[i, :height, :width] = image
      extents[i] = height, width
    return Loaded(images, labels, extents)

  def _decode(self, encoded: str | bytes, where: str) -> np.ndarray:
    most = None if self.whole is None else self.whole.canvas
    options = {'as_shown': self.as_shown, 'most': most}
    return images_lib.decode(encoded, self.image_shape[2], self.image_size, where, **options)
