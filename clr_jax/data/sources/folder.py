"""A folder of images: class sub-folders, or a flat folder without labels."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.data import images as images_lib
from clr_jax.data.base import NUM_THREADS, Source
from clr_jax.data.order import shuffled
from clr_jax.data.slices import base_split, resolve_split

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')  # in upper case too
_SPLITS = ('train', 'test', 'val', 'validation')
_ANNOTATIONS = 'val_annotations.txt'


class FolderSource(Source):
  """Images below a folder, decoded when asked for.

  `PATH/<class>/**/<file>` gives labels: the classes are the sorted names of the sub-folders, those
  of the training split for every split. `PATH/<file>` gives unlabeled data. `PATH/train` and
  `PATH/test`, `PATH/val` or `PATH/validation` are splits if they are there; the last two are one
  unless both are, and 'test' falls back on it. Tiny ImageNet is read as it is distributed: the
  labels of its `val` are in val_annotations.txt, its `test` has none.

  Every image becomes RGB, or gray with `channels=1`. With `image_size` the shorter side is resized
  to it (bilinear) and the central square kept. Example i is the i-th file sorted by relative path.
  As that order is by class, a slice ('train[:10%]') and `limit` take a fixed random subset, in the
  same sorted order; slices that do not overlap share no file.
  """

  def __init__(
    self,
    path: str,
    *,
    name: str,
    split: str,
    image_size: int | None,
    channels: int | None,
    limit: int | None,
  ):
    """Reads the folder's listing; also every image's header if `image_size` is None.

    Raises:
      UserError: no such folder or split, no image in it, labels unclear, sizes differ, or a
        damaged header.
    """
    base, class_names, folder = _find_split(Path(path).expanduser(), split)
    files = _list_images(folder)
    classes = _classes(files, folder, class_names or ())
    if class_names is None:
      class_names = _names(classes)
    elif odd := set(classes or ()) - set(class_names):
      raise UserError(f'the class {min(odd)!r} of {folder} does not exist in the training split')
    _, lo, hi = resolve_split(split, {base: len(files)}, source=name)
    hi = hi if limit is None else min(hi, lo + limit)
    rows = np.arange(len(files))
    if (lo, hi) != (0, len(files)):
      rows = np.sort(shuffled(0, 0, len(files))[lo:hi])
    self._folder = folder
    self._files = files
    self._image_size = image_size
    number = {c: i for i, c in enumerate(class_names)}
    self._labels = None
    if classes is not None:
      self._labels = np.array([number[c] for c in classes], np.int32)
    height, width = (image_size, image_size) if image_size else self._common_size(rows)
    super().__init__(
      name=name,
      split=split,
      rows=rows,
      image_shape=(height, width, channels or 3),
      num_classes=None if classes is None else len(class_names),
      class_names=None if classes is None else class_names,
    )

  def _path(self, row: int) -> str:
    return os.path.join(self._folder, self._files[row])

  def _common_size(self, rows: np.ndarray) -> tuple[int, int]:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
      paths = [self._path(row) for row in rows]
      sizes = list(pool.map(images_lib.image_size_of, paths, paths))
    for path, size in zip(paths, sizes, strict=True):
      if size != sizes[0]:
        raise UserError(
          f'the images differ in size ({paths[0]} is {sizes[0][0]}x{sizes[0][1]}, {path} is '
          f'{size[0]}x{size[1]}): set image_size'
        )
    return sizes[0]

  def _manifest(self) -> str:
    listing = '\n'.join(self._files[row] for row in self._rows)
    return hashlib.sha256(listing.encode('utf-8', 'surrogateescape')).hexdigest()

  def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    images = np.empty((len(rows), *self.image_shape), np.uint8)
    for i, row in enumerate(rows):
      path = self._path(row)
      image = images_lib.decode(path, self.image_shape[2], self._image_size, path)
      if image.shape != self.image_shape:
        raise UserError(f'the image {path} has changed its size since the start: run again')
      images[i] = image
    return images, self._read_labels(rows)

  def _read_labels(self, rows: np.ndarray) -> np.ndarray | None:
    return None if self._labels is None else self._labels[rows]


def load(path: str, *, data_dir: str | None, **options: Any) -> FolderSource:
  """One split of an image folder; see `clr_jax.data.sources`."""
  del data_dir
  if not path:
    raise UserError('the data source folder needs a path: write folder:PATH')
  return FolderSource(path, **options)


def available(data_dir: str | None) -> list[tuple[str, str]]:
  """The form of their names; see `clr_jax.data.sources`."""
  del data_dir
  return [
    ('folder:PATH', 'images, in class sub-folders or flat (unlabeled); train and test sub-folders')
  ]


def _find_split(root: Path, split: str) -> tuple[str, tuple[str, ...] | None, str]:
  """(base split, class names of the training split if known, folder of the split)."""
  if not root.is_dir():
    raise UserError(f'there is no image folder {root}: correct the path in data.name')
  below = {p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith('.')}
  # A class may be called 'train', too: then it has siblings that are no splits, and no sub-folders.
  has_splits = 'train' in below and (
    below <= set(_SPLITS) or any(p.is_dir() for p in (root / 'train').iterdir())
  )
  base = base_split(split)
  if not has_splits:
    if base != 'train':
      raise UserError(
        f'the folder {root} has no split {base!r}: it has no train sub-folder, so all of it is '
        "'train' (make the sub-folders train and test, or take a slice such as 'train[90%:]')"
      )
    return base, None, str(root)
  found = {s: root / s for s in _SPLITS if s in below}
  for name, other in (('val', 'validation'), ('validation', 'val'), ('test', 'val')):
    if other in found:
      found.setdefault(name, found[other])
  if base not in found:
    raise UserError(f'the folder {root} has no split {base!r}: choose one of {", ".join(found)}')
  if base == 'train':
    return base, None, str(found[base])
  train = str(found['train'])
  return base, _names(_classes(_list_images(train), train)), str(found[base])


def _list_images(folder: str) -> list[str]:
  """Relative paths with '/' of all images, sorted."""
  found = []
  for parent, folders, files in os.walk(folder, followlinks=True):
    folders[:] = [f for f in folders if not f.startswith('.')]
    prefix = os.path.relpath(parent, folder).replace(os.sep, '/')
    prefix = '' if prefix == '.' else f'{prefix}/'
    found += [prefix + f for f in files if f.lower().endswith(EXTENSIONS) and not f.startswith('.')]
  if not found:
    raise UserError(f'the folder {folder} holds no image ({", ".join(EXTENSIONS)})')
  return sorted(found)


def _classes(files: list[str], folder: str, known: tuple[str, ...] = ()) -> list[str] | None:
  """The class of each file, None for unlabeled images; `known` are the training split's."""
  flat = [f for f in files if '/' not in f]
  if flat and len(flat) < len(files):
    raise UserError(
      f'the folder {folder} holds both class sub-folders and loose images such as {flat[0]}: move '
      'the loose ones away or all images into one flat folder'
    )
  classes = [f.split('/', 1)[0] for f in files]
  # As in Tiny ImageNet's val and test.
  below_images = set(classes) == {'images'} and 'images' not in known
  annotations = Path(folder) / _ANNOTATIONS
  if (flat or below_images) and annotations.is_file():
    return _annotated(files, annotations)
  if below_images and known:
    if annotations.parent.name == 'test':
      return None
    raise UserError(
      f'the images of {folder} have no classes: restore {annotations} or sort them into class '
      'sub-folders'
    )
  return None if flat else classes


def _annotated(files: list[str], annotations: Path) -> list[str]:
  """Classes by the lines of Tiny ImageNet's val_annotations.txt: file, class, box; tabs between."""
  rows = [line.split('\t') for line in annotations.read_text().splitlines() if line.strip()]
  class_of = {row[0]: row[1] for row in rows if len(row) > 1}
  names = [f.rpartition('/')[2] for f in files]
  missing = [name for name in names if name not in class_of]
  if missing:
    raise UserError(
      f'{annotations} has no class of the image {missing[0]}: unpack the folder again or remove '
      'the image'
    )
  return [class_of[name] for name in names]


def _names(classes: list[str] | None) -> tuple[str, ...]:
  """Sorted class names, () for unlabeled images."""
  return tuple(sorted(set(classes or ())))
