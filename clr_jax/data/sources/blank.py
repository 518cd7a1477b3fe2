"""Black images in the number and form of a known data set, to plan runs where it is absent.

Sizes and splits are those of TFDS; STL-10's 'train' there has the labeled images alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name, listed
from clr_jax.data.base import Source
from clr_jax.data.slices import selected_rows
from clr_jax.data.whole import Loaded, Whole

SIZES_DIFFER = True  # those of ImageNet's photographs


class _Form(NamedTuple):
  """Form of a data set.

  Attributes:
    side: height and width of every image; None if they differ.
    channels: 1 or 3.
    classes: number of classes.
    sizes: number of examples of each split.
  """

  side: int | None
  channels: int
  classes: int
  sizes: Mapping[str, int]


_CIFAR = {'train': 50_000, 'test': 10_000}
_FORMS = {
  'cifar10': _Form(32, 3, 10, _CIFAR),
  'cifar100': _Form(32, 3, 100, _CIFAR),
  'fashion_mnist': _Form(28, 1, 10, {'train': 60_000, 'test': 10_000}),
  'stl10': _Form(96, 3, 10, {'train': 5_000, 'unlabelled': 100_000, 'test': 8_000}),
  'tiny_imagenet': _Form(64, 3, 200, {'train': 100_000, 'val': 10_000}),
  'imagenet100': _Form(None, 3, 100, {'train': 126_689, 'validation': 5_000}),
  'imagenet2012': _Form(None, 3, 1000, {'train': 1_281_167, 'validation': 50_000}),
}
_FOLDERS = {'folder:tiny-imagenet-200': 'tiny_imagenet'}  # as configs name them


class BlankSource(Source):
  """Black images; the label of stored row i is i modulo the number of classes."""

  def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    return np.zeros((len(rows), *self.image_shape), np.uint8), self._read_labels(rows)

  def _read_whole(self, rows: np.ndarray) -> Loaded:
    if self.whole is None:
      return Loaded(*self._read(rows))
    extent = np.full((len(rows), 2), self.whole.canvas, np.int32)
    return Loaded(
      np.zeros((len(rows), *self.stored_shape), np.uint8), self._read_labels(rows), extent
    )

  def _read_labels(self, rows: np.ndarray) -> np.ndarray | None:
    return None if self.num_classes is None else (rows % self.num_classes).astype(np.int32)


def load(
  path: str,
  *,
  name: str,
  split: str,
  data_dir: str | None,
  image_size: int | None,
  channels: int | None,
  limit: int | None,
  whole: Whole | None = None,
) -> BlankSource:
  """One split of black images; see `clr_jax.data.sources`."""
  del data_dir
  check_name(_FORMS, path, 'data set of blank:NAME')
  form = _FORMS[path]
  base, rows = selected_rows(split, form.sizes, source=name, limit=limit)
  if form.side is not None and (whole is None or not whole.always):
    whole = None
  side = image_size or (form.side if whole is None else whole.size)
  if side is None:
    raise UserError(f'{name}: the images of {path} differ in size: set data.image_size')
  return BlankSource(
    name=name,
    split=split,
    rows=rows,
    image_shape=(side, side, channels or form.channels),
    num_classes=None if base == 'unlabelled' else form.classes,
    class_names=None,
    origin=f'{name} {base}',
    whole=whole,
  )


def splits(path: str, data_dir: str | None) -> list[str]:
  """Splits of a form; see `clr_jax.data.sources`."""
  del data_dir
  check_name(_FORMS, path, 'data set of blank:NAME')
  return list(_FORMS[path].sizes)


def available(data_dir: str | None) -> list[tuple[str, str]]:
  """How to name them; see `clr_jax.data.sources`."""
  del data_dir
  return [('blank:NAME', f'black images in the form of {listed(_FORMS)}, for `clr-jax plan`')]


def blank_name(name: str) -> str:
  """Name of the black images in the form of a data set of a config.

  Args:
    name: name of the data set, as in `config.data.name`.

  Raises:
    UserError: its form is not known here.
  """
  known = _FOLDERS.get(name, name)
  check_name(_FORMS, known, 'data set of blank:NAME')
  return f'blank:{known}'


def blank_form(name: str) -> tuple[int | None, int, Mapping[str, int]]:
  """Side of the images, channels, and number of images of each split, as of `blank_name(name)`.

  Args:
    name: name of the data set, as in `config.data.name`.

  Raises:
    UserError: its form is not known here.
  """
  form = _FORMS[blank_name(name).partition(':')[2]]
  return form.side, form.channels, form.sizes
