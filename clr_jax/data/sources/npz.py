"""Arrays of images and labels in .npz files, one file or one for each split."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.data.arrays import ArraySource, array_source
from clr_jax.data.slices import base_split

_IMAGE_KEYS = ('image', 'images', 'x')
_LABEL_KEYS = ('label', 'labels', 'y')


def load(path: str, *, name: str, split: str, data_dir: str | None, **options: Any) -> ArraySource:
  """One split of a file, or of the files of a path with '{split}'; see `clr_jax.data.sources`."""
  del data_dir
  base = base_split(split)
  if '{split}' not in path and base != 'train':
    raise UserError(
      f"{name} has no split {base!r}: all of it is 'train' (write '{{split}}' in the path to name "
      'one file per split)'
    )
  images, labels = _read(Path(path.replace('{split}', base)).expanduser())
  return array_source(images, labels, {base: len(images)}, name=name, split=split, **options)


def available(data_dir: str | None) -> list[tuple[str, str]]:
  """The form of their names; see `clr_jax.data.sources`."""
  del data_dir
  return [
    ('npz:PATH', "arrays 'image' [N,H,W,C] uint8 and 'label' [N]; '{split}' in PATH is replaced")
  ]


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  if not path.is_file():
    raise UserError(f'there is no file {path}: correct the path in data.name')
  try:
    # np.load leaves a damaged file open if it opens the path itself.
    with open(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      image_key = next((k for k in _IMAGE_KEYS if k in file.files), None)
      label_key = next((k for k in _LABEL_KEYS if k in file.files), None)
      if image_key is None:
        raise UserError(
          f"{path} has no array 'image' (nor 'images' nor 'x'), only: {', '.join(file.files)}"
        )
      return file[image_key], None if label_key is None else file[label_key]
  except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
    raise UserError(f'cannot read {path} as an .npz file ({error})') from error
