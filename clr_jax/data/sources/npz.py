"""Arrays of images and labels in .npz files, one file or one for each split.

Labels are any integers, or texts: the distinct ones of the split 'train' are numbered in ascending
order, and their text is the name of the class; those that only another split has follow.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.storage import first_line
from clr_jax.data.arrays import ArraySource, array_source
from clr_jax.data.classes import checked_labels
from clr_jax.data.slices import base_split

NAMES_A_PATH = True
# Errors that numpy and zipfile raise for damaged, encrypted and pickled files.
_UNREADABLE = (
  *(OSError, ValueError, EOFError, TypeError, RuntimeError, MemoryError, OverflowError),
  *(zipfile.BadZipFile, zlib.error),
)
_IMAGE_KEYS = ('image', 'images', 'x')
_LABEL_KEYS = ('label', 'labels', 'y')
_SPLITS = ('train', 'test', 'val', 'validation')


def load(path: str, *, name: str, split: str, data_dir: str | None, **options: Any) -> ArraySource:
  """One split of a file, or of the files of a path with '{split}'; see `clr_jax.data.sources`."""
  del data_dir
  if not path:
    raise UserError('the data source npz needs a path: write npz:FILE')
  base = base_split(split)
  if '{split}' not in path and base != 'train':
    raise UserError(
      f"{name} has no split {base!r}: all of it is 'train' (write '{{split}}' in the path to name "
      "one file per split, or take two slices: data.train_split='train[:90%]' and "
      "data.test_split='train[90%:]')"
    )
  file = _file(path, base)
  images, labels = _read(file)
  training = None
  if labels is not None and base != 'train' and os.path.isfile(_file(path, 'train')):
    training = _training_labels(_file(path, 'train'))
  sizes, origin = {base: len(np.atleast_1d(images))}, os.path.realpath(file)
  named = {'name': name, 'split': split, 'origin': origin}
  return array_source(images, labels, sizes, training=training, **named, **options)


def splits(path: str, data_dir: str | None) -> list[str]:
  """Splits with a file; see `clr_jax.data.sources`."""
  del data_dir
  if '{split}' not in path:
    return ['train']
  return [name for name in _SPLITS if os.path.isfile(_file(path, name))]


def available(data_dir: str | None) -> list[tuple[str, str]]:
  """How to name them; see `clr_jax.data.sources`."""
  del data_dir
  return [
    ('npz:PATH', "arrays 'image' [N,H,W,C] uint8 and 'label' [N]; '{split}' in PATH is replaced")
  ]


def _file(path: str, base: str) -> Path:
  return Path(os.path.expanduser(path.replace('{split}', base)))


def _training_labels(path: Path) -> np.ndarray | None:
  """The labels that give the classes their numbers; None if that split is unlabeled."""
  labels = _read(path, images=False)[1]
  return None if labels is None else checked_labels(labels, len(labels), str(path))


def _read(path: Path, *, images: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
  """The images and the labels of a file, or an empty array instead of the images."""
  if not os.path.isfile(path):
    raise UserError(f'there is no file {path}: correct the path')
  try:
    # np.load leaves a damaged file open if it opens the path itself.
    with open(path, 'rb') as raw:
      file = np.load(raw, allow_pickle=False)
      if isinstance(file, np.ndarray):
        raise ValueError('it is one array without a name')
      with file:
        return _arrays(file, path, images=images)
  except PermissionError as error:
    raise UserError(f'cannot read {path} ({error.strerror}): make it readable') from error
  except _UNREADABLE as error:
    raise UserError(
      f'cannot read {path} as an .npz file ({first_line(error)}): save it again with numpy.savez, '
      'images as uint8 and labels as integers'
    ) from error


def _arrays(file: Any, path: Path, *, images: bool) -> tuple[np.ndarray, np.ndarray | None]:
  image_key = next((k for k in _IMAGE_KEYS if k in file.files), None)
  label_key = next((k for k in _LABEL_KEYS if k in file.files), None)
  if image_key is None:
    found = ', '.join(file.files) or 'none'
    raise UserError(
      f"{path} has no array 'image' (nor 'images' nor 'x'), only: {found}: "
      "save the images as 'image' and the labels as 'label'"
    )
  labels = None if label_key is None else file[label_key]
  return file[image_key] if images else np.empty(0), labels
