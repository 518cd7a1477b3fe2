"""Images that are in memory: the checks of arrays, and the source made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.data import images as images_lib
from clr_jax.data.base import Source, frozen
from clr_jax.data.classes import checked_labels, class_numbers
from clr_jax.data.slices import selected_rows


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
    origin: str | None = None,
    rows: np.ndarray | None = None,
  ):
    """
    Args:
      images: [N, H, W, C] or [N, H, W] uint8, C is 1 or 3.
      labels: [N] integers or texts, whose distinct values are numbered in ascending order; with
        num_classes or class_names the numbers 0..C-1. None or all -1 if there are none.
      name, split, num_classes, class_names, origin: see `Source`.
      rows: [N] positions in the whole split at `origin`; None = 0..N-1.

    Raises:
      UserError: wrong dtype, rank, number of channels or labels.
    """
    images = checked_images(images, name)
    if labels is not None:
      labels = checked_labels(labels, len(images), name)
    if labels is not None:
      labels, num_classes, class_names = _numbered(labels, num_classes, class_names, name)
    super().__init__(
      name=name,
      split=split,
      rows=np.arange(len(images)) if rows is None else rows,
      image_shape=images.shape[1:],
      num_classes=num_classes if labels is not None else None,
      class_names=class_names if labels is not None else None,
      origin=origin,
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
  training: np.ndarray | None = None,
  origin: str | None = None,
) -> ArraySource:
  """The slice `split` of the arrays of a whole split, fitted as `load_source` documents it.

  The number of classes is that of the whole split, whatever the slice selects.

  Args:
    images, labels, class_names: see `ArraySource`, of the whole split.
    sizes: {name of each split: number of examples}.
    training: [M] labels of the training split, by which those of another split are numbered.
    origin: see `Source`; None = the name of the data set and of the split.

  Raises:
    UserError: as `ArraySource` and `selected_rows` do.
  """
  base, rows = selected_rows(split, sizes, source=name, limit=limit)
  first, last = rows[[0, -1]]
  chosen = slice(first, last + 1) if last - first + 1 == len(rows) else rows  # a view, no copy
  images = checked_images(images, name)
  num_classes = None
  if labels is not None:
    labels = checked_labels(labels, len(images), name)
  if labels is not None:
    labels, num_classes, class_names = _numbered(labels, None, class_names, name, training)
    labels = labels[chosen]
  return ArraySource(
    images_lib.fit_arrays(images[chosen], image_size, channels, where=f'of {name}'),
    labels,
    name=name,
    split=split,
    num_classes=num_classes,
    class_names=class_names,
    origin=origin or f'{name} {base}',
    rows=rows,
  )


def _numbered(
  labels: np.ndarray,
  num_classes: int | None,
  class_names: tuple[str, ...] | None,
  name: str,
  training: np.ndarray | None = None,
) -> tuple[np.ndarray, int, tuple[str, ...] | None]:
  """(class numbers [N] int32, number of classes, their names unless those are the numbers)."""
  given = len(class_names) if class_names else num_classes
  if given is None:
    numbers, names = class_numbers(labels, training)
    usual = names == tuple(map(str, range(len(names))))
    return numbers, len(names), None if usual else names
  if labels.dtype.kind not in 'iu' or labels.min() < 0 or labels.max() >= given:
    raise UserError(
      f'{name}: labels of {given} classes must be integers from 0 to {given - 1}: leave the number '
      'and the names of the classes out to have other labels numbered'
    )
  return labels.astype(np.int32), given, class_names
