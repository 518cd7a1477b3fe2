"""Images that are in memory: the checks of arrays, and the source made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.data import images as images_lib
from clr_jax.data.base import Source, frozen
from clr_jax.data.slices import resolve_split


class ArraySource(Source):
  """Images that are in memory already."""

  def __init__(
    self,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    name: str = 'arrays',
    split: str = 'train',
    num_classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
  ):
    """images [N, H, W, C] or [N, H, W] uint8, C is 1 or 3; labels [N] integers >= 0, or None.

    Raises:
      UserError: wrong dtype, rank, number of channels or number of labels.
    """
    images = checked_images(images, name)
    if labels is not None:
      labels = checked_labels(labels, len(images), name)
      if num_classes is None:
        num_classes = len(class_names) if class_names else int(labels.max()) + 1
    super().__init__(
      name=name,
      split=split,
      rows=np.arange(len(images)),
      image_shape=images.shape[1:],
      num_classes=num_classes if labels is not None else None,
      class_names=class_names if labels is not None else None,
    )
    # Views, so that the caller's own arrays stay writable.
    self._arrays = frozen(images.view(), None if labels is None else labels.view())

  def __getstate__(self):
    return self.__dict__

  def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    raise AssertionError('the arrays are always there')


def checked_images(images: np.ndarray, name: str) -> np.ndarray:
  """images as uint8 [N, H, W, C].

  Raises:
    UserError: wrong dtype, rank or number of channels, or no image.
  """
  if images.dtype != np.uint8:
    raise UserError(
      f'{name}: images must be uint8 in 0..255, got {images.dtype}: convert them first'
    )
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
    raise UserError(
      f'{name}: images must have the shape [N, H, W, C] with 1 or 3 channels, or [N, H, W], got '
      f'{list(images.shape)}'
    )
  return images


def checked_labels(labels: np.ndarray, n: int, name: str) -> np.ndarray:
  """labels as int32 [N].

  Raises:
    UserError: not integers, not one per image, or negative.
  """
  if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (n,) or labels.min() < 0:
    raise UserError(
      f'{name}: labels must be {n} integers of at least 0, one per image, got {labels.dtype} of '
      f'shape {list(labels.shape)}'
    )
  return labels.astype(np.int32)


def array_source(
  images: np.ndarray,
  labels: np.ndarray | None,
  sizes: Mapping[str, int],
  *,
  name: str,
  split: str,
  image_size: int | None,
  channels: int | None,
  limit: int | None,
  class_names: tuple[str, ...] | None = None,
) -> ArraySource:
  """The slice `split` of the arrays of a whole split, fitted as `load_source` documents it.

  The number of classes is that of the whole split, whatever the slice selects.

  Args:
    sizes: {name of each split: number of examples}.

  Raises:
    UserError: as `ArraySource` and `resolve_split` do.
  """
  _, lo, hi = resolve_split(split, sizes, source=name)
  rows = slice(lo, hi if limit is None else min(hi, lo + limit))
  images = checked_images(images, name)
  num_classes = None
  if labels is not None:
    labels = checked_labels(labels, len(images), name)
    num_classes = len(class_names) if class_names else int(labels.max()) + 1
    labels = labels[rows]
  images = images_lib.fit_arrays(images[rows], image_size, channels)
  return ArraySource(
    images, labels, name=name, split=split, num_classes=num_classes, class_names=class_names
  )
