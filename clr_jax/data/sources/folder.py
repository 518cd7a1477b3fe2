"""A folder of images: class sub-folders, or a flat folder without labels."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.data import images as images_lib
from clr_jax.data import layout
from clr_jax.data.base import NUM_THREADS
from clr_jax.data.encoded import EncodedSource
from clr_jax.data.order import shuffled
from clr_jax.data.slices import base_split, resolve_split
from clr_jax.data.whole import Whole

NAMES_A_PATH = True
SIZES_DIFFER = True
_DEEP = 16  # about so many 16-bit images are searched for their largest value
SAMPLE = 1024
"""Headers to read, evenly spaced, where not all are."""
MOST_HEADERS = 8192
"""Number of images of one size up to which all headers are read, which takes half a second."""
FEW = 32
"""Headers to read first, to see whether sizes differ."""


class FolderSource(EncodedSource):
  """Images below a folder, decoded when asked for.

  `PATH/<class>/**/<file>` gives labels: the classes are the sorted names of the sub-folders, those
  of the training split for every split. `PATH/<file>` gives unlabeled data. `PATH/train`,
  `PATH/test` and `PATH/val` are splits if they are there, by these and like names in any case
  (`Training`, `validation`, `test_images`); 'test' falls back on 'val'. Tiny ImageNet is read as it
  is distributed: the labels of its `val` are in val_annotations.txt, its `test` has none.

  Every image becomes RGB, or gray with `channels=1`; see `images.decode`. With `image_size` the
  shorter side is resized to it (bilinear) and the central square kept; with `whole` images of
  several sizes are kept as they are. Example i is the i-th file
  sorted by relative path. As that order is by class, a slice ('train[:10%]') and `limit` take a
  fixed random subset, in the same sorted order; slices that do not overlap share no file.
  """

  as_shown = True

  def __init__(
    self,
    path: str,
    *,
    name: str,
    split: str,
    image_size: int | None,
    channels: int | None,
    limit: int | None,
    whole: Whole | None = None,
  ):
    """Reads the folder's listing and headers: some, or all of few images of one size.

    Raises:
      UserError: no such folder or split, no image in it, labels unclear, sizes differ, a header
        that is refused, or a damaged one where all headers count.
    """
    base = base_split(split)
    root = Path(os.path.expanduser(path))
    found = layout.read_split(root, base)
    _, lo, hi = resolve_split(split, {base: len(found.files)}, source=name)
    hi = hi if limit is None else min(hi, lo + limit)
    rows = np.arange(len(found.files))
    if (lo, hi) != (0, len(rows)):
      rows = np.sort(shuffled(0, 0, len(rows))[lo:hi])
    self._folder = found.folder
    self._files = found.files
    self.image_size = image_size
    self._labels = None
    if found.classes is not None:
      number = {c: i for i, c in enumerate(found.class_names)}
      self._labels = np.array([number[c] for c in found.classes], np.int32)
    whole = None if image_size else whole
    if whole is not None and not whole.always and self._seem_alike(rows):
      whole = None
    if side := image_size or (whole and whole.size):
      height = width = side
      facts = self._sampled_facts(rows, whole)
    else:
      (height, width), facts = self._common_size(rows)
    super().__init__(
      name=name,
      split=split,
      rows=rows,
      image_shape=(height, width, channels or 3),
      num_classes=None if found.classes is None else len(found.class_names),
      class_names=None if found.classes is None else tuple(map(_printable, found.class_names)),
      origin=os.path.realpath(found.folder),
      notes=(
        *([f'from {found.folder}'] if Path(found.folder) != root else ()),
        *found.notes,
        *facts,
      ),
      whole=whole,
    )

  def _path(self, row: int) -> str:
    return os.path.join(self._folder, self._files[row])

  def stored_files(self, folders: Collection[str] | None = None) -> dict[str, set[str]]:
    real: dict[str, str] = {}
    found: dict[str, set[str]] = {}
    for row in self._rows:
      folder, _, name = self._files[row].rpartition('/')
      if folder not in real:
        real[folder] = os.path.realpath(os.path.join(self._folder, folder))
        found.setdefault(real[folder], set())
      if folders is None or real[folder] in folders:
        found[real[folder]].add(name)
    return found

  def file_names(self) -> list[str]:
    return [self._files[row] for row in self._rows]

  def _common_size(self, rows: np.ndarray) -> tuple[tuple[int, int], list[str]]:
    """The size of all images, and how decoding changes some of them.

    Some of many images are looked at; `load` refuses another size.
    """
    some = rows if len(rows) <= MOST_HEADERS else _spread(rows, SAMPLE)
    paths = [self._path(row) for row in some]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
      headers = list(pool.map(images_lib.read_header, paths))
    first = headers[0].size
    for path, (size, _) in zip(paths, headers, strict=True):
      if size != first:
        raise UserError(
          f'the images differ in size ({paths[0]} is {first[0]}x{first[1]}, {path} is '
          f'{size[0]}x{size[1]}): set data.image_size'
        )
    return first, _facts(paths, headers)

  def _seem_alike(self, rows: np.ndarray) -> bool:
    """Returns True if a few images, evenly spaced, have one size."""
    paths = [self._path(row) for row in _spread(rows, FEW)]
    with contextlib.suppress(images_lib.DamagedImage):  # named when it is read
      return len({images_lib.read_header(path).size for path in paths}) == 1
    return False

  def _sampled_facts(self, rows: np.ndarray, whole: Whole | None) -> list[str]:
    """Finds facts about the decoding of some images; raises the errors that it would raise."""
    most = whole.canvas if whole else None
    paths = [self._path(row) for row in _spread(rows, SAMPLE)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
      headers = list(pool.map(lambda path: _header(path, self.image_size, most), paths))
    return _facts(paths, headers)

  def _manifest(self) -> str:
    listing = '\n'.join(self._files[row] for row in self._rows)
    return hashlib.sha256(listing.encode('utf-8', 'surrogateescape')).hexdigest()

  def _encoded(self, rows: np.ndarray) -> tuple[Iterable[tuple[str, str]], np.ndarray | None]:
    return ((path, path) for path in map(self._path, rows)), self._read_labels(rows)

  def _read_labels(self, rows: np.ndarray) -> np.ndarray | None:
    return None if self._labels is None else self._labels[rows]

  def known_labels(self) -> np.ndarray | None:
    return self._read_labels(self._rows)


def load(path: str, *, data_dir: str | None, **options: Any) -> FolderSource:
  """One split of an image folder; see `clr_jax.data.sources`."""
  del data_dir
  if not path:
    raise UserError('the data source folder needs a path: write folder:PATH')
  return FolderSource(path, **options)


def splits(path: str, data_dir: str | None) -> list[str]:
  """Usual names of the splits that have a sub-folder; see `clr_jax.data.sources`."""
  del data_dir
  return layout.splits(Path(os.path.expanduser(path)))


def sizes(
  path: str, *, split: str, data_dir: str | None, choose: Callable[[int], np.ndarray]
) -> list[tuple[int, int]]:
  """Sizes from the headers of the files; see `clr_jax.data.sources`."""
  del data_dir
  found = layout.read_split(Path(os.path.expanduser(path)), base_split(split))
  paths = [os.path.join(found.folder, found.files[row]) for row in choose(len(found.files))]
  with ThreadPoolExecutor(NUM_THREADS) as pool:
    return [header.size for header in pool.map(images_lib.read_header, paths)]


def available(data_dir: str | None) -> list[tuple[str, str]]:
  """How to name them; see `clr_jax.data.sources`."""
  del data_dir
  return [
    ('folder:PATH', 'images, in class sub-folders or flat (unlabeled); train and test sub-folders')
  ]


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
  """At most `most` of the rows, evenly spaced."""
  count = min(most, len(rows))
  return rows[np.arange(count) * len(rows) // count]


def _header(path: str, size: int | None, most: int | None) -> images_lib.Header:
  try:
    return images_lib.read_header(path, size, most=most)
  except images_lib.DamagedImage:  # named when it is read
    return images_lib.Header((0, 0), ())


def _facts(paths: Sequence[str], headers: Sequence[images_lib.Header]) -> list[str]:
  """Sentences about changes of images by decoding."""
  facts = sorted({fact for header in headers for fact in header.facts})
  deep = [p for p, h in zip(paths, headers, strict=True) if images_lib.SIXTEEN_BITS in h.facts]
  largest = 0
  for path in deep[:: max(1, len(deep) // _DEEP)]:
    with contextlib.suppress(images_lib.DamagedImage):  # named when it is read
      largest = max(largest, images_lib.largest_value(path))
  # Cameras of 12 bits leave 15/16 of the range empty, and the images black.
  said = f'{images_lib.SIXTEEN_BITS} (the largest value found is {largest:,} of 65,535)'
  return [said if fact == images_lib.SIXTEEN_BITS else fact for fact in facts]


def _printable(name: str) -> str:
  """The name of a folder, with escapes for bytes that are not UTF-8."""
  return name.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
