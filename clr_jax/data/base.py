"""The interface of a source: random access by a stable index to uint8 images, labels or none."""

from __future__ import annotations

import abc
import hashlib
import math
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clr_jax.data.whole import Loaded, Whole, central

_HASH_ALL_BYTES = 256 * 2**20  # larger sources are hashed by a sample
_HASH_SAMPLE = 4096
_PART_BYTES = 4 * 2**20  # a thread decodes so much at a time, but at most _PART_ROWS
_PART_ROWS = 256
NUM_THREADS = min(16, 2 * (os.cpu_count() or 1))


def rows_at_once(image_shape: tuple[int, int, int]) -> int:
  """Number of images that one thread decodes at a time, at least 1.

  Reading image by image costs Python more than decoding small ones does; parts of many large ones
  would leave threads idle.
  """
  return max(1, min(_PART_ROWS, _PART_BYTES // math.prod(image_shape)))


class Source(abc.ABC):
  """One split of a data set; example i of 0..num_examples-1 is the same at every call and run.

  Attributes:
    name: the data set's name, as given to `load_source`.
    split: the split, with its slice.
    num_examples: N.
    image_shape: (H, W, C) of every image that `load` gives, C is 1 or 3.
    whole: how images of several sizes are kept; None for images of one size. With it `load` gives
      the central squares for evaluation, `load_whole` the whole images on canvases.
    num_classes: number of classes of the whole data set, None for unlabeled data.
    class_names: their names, or None.
    origin: where the whole split is stored, for `shared_examples`; None if that is not known.
    notes: changes to the data and what was left out, as parts of a sentence.
  """

  def __init__(
    self,
    *,
    name: str,
    split: str,
    rows: np.ndarray,
    image_shape: tuple[int, int, int],
    num_classes: int | None,
    class_names: tuple[str, ...] | None,
    origin: str | None = None,
    notes: tuple[str, ...] = (),
    whole: Whole | None = None,
  ):
    self.name = name
    self.split = split
    self.image_shape = image_shape
    self.num_classes = num_classes
    self.class_names = class_names
    self.origin = origin
    self.notes = notes
    self.whole = whole
    self._rows = rows  # where example i is stored
    self._arrays: Loaded | None = None

  @abc.abstractmethod
  def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Images [n, H, W, C] uint8 and labels [n] int32 (or None) of stored rows; thread-safe."""

  def _read_whole(self, rows: np.ndarray) -> Loaded:
    """Like `_read`; sources with `whole` override it to give the images on canvases."""
    return Loaded(*self._read(rows))

  def _read_labels(self, rows: np.ndarray) -> np.ndarray | None:
    """Labels [n] int32 (or None) of stored rows; overridden where no image must be decoded."""
    return self._read(rows)[1]

  def _manifest(self) -> str:
    """Text that identifies the examples beyond their pixels, part of the checksum."""
    return ''

  def __getstate__(self):
    """Reader processes get the path of the data, not the decoded copy."""
    return {**self.__dict__, '_arrays': None}

  @property
  def num_examples(self) -> int:
    return len(self._rows)

  @property
  def stored_rows(self) -> np.ndarray:
    """[N] the position of each example in the whole split at `origin`."""
    return self._rows

  def stored_files(self, folders: Collection[str] | None = None) -> dict[str, set[str]]:
    """Real folder -> names of its files that are examples; {} if examples are not files.

    Args:
      folders: only of these; None = of all.
    """
    del folders
    return {}

  def file_names(self) -> list[str] | None:
    """The path of each example below `origin`; None if examples have no files of their own."""
    return None

  @property
  def in_memory(self) -> bool:
    """True if `arrays` reads no files."""
    return self._arrays is not None

  @property
  def parts(self) -> tuple[Source, ...]:
    """Sources that this one joins; itself if it joins none."""
    return (self,)

  def shared_examples(self, other: Source) -> int:
    """Number of examples of this source that another source has, too, by where they are stored."""
    if len(self.parts) + len(other.parts) > 2:
      return sum(own.shared_examples(its) for own in self.parts for its in other.parts)
    if self.origin is None or other.origin is None:
      return 0
    if self.origin == other.origin:
      return len(np.intersect1d(self.stored_rows, other.stored_rows))
    # Through links to folders.
    own, others = self.stored_files(()), other.stored_files(())
    common = own.keys() & others.keys()
    own, others = self.stored_files(common), other.stored_files(common)
    return sum(len(own[folder] & others[folder]) for folder in common)

  @property
  def nbytes(self) -> int:
    """Bytes of all images as uint8, canvases included."""
    return self.num_examples * math.prod(self.stored_shape)

  @property
  def stored_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of what `load_whole` gives: `image_shape`, or that of a canvas."""
    if self.whole is None:
      return self.image_shape
    return (self.whole.canvas, self.whole.canvas, self.image_shape[2])

  def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Images [n, H, W, C] uint8 and labels [n] int32 (None if unlabeled) of `indices` [n].

    Raises:
      UserError: a file is damaged (the message names it).
    """
    image, label, extent = self.load_whole(indices)
    if self.whole is None:
      return image, label
    out = np.empty((len(image), *self.image_shape), np.uint8)

    def fit(i: int) -> None:
      assert self.whole is not None
      height, width = extent[i]
      out[i] = central(image[i, :height, :width], self.whole)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
      list(pool.map(fit, range(len(out))))
    return out, label

  def load_whole(self, indices: np.ndarray) -> Loaded:
    """Whole images of `indices` [n]; those of `load` where all images have one size.

    Raises:
      UserError: a file is damaged (the message names it).
    """
    if self._arrays is None:
      return self._read_by_threads(self._rows[indices])
    return Loaded(*(None if part is None else part[indices] for part in self._arrays))

  def arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
    """All images [N, *stored_shape] and labels [N] (or None) of `whole_arrays`."""
    return self.whole_arrays()[:2]

  def whole_arrays(self) -> Loaded:
    """`load_whole` of all examples, read-only; decoded once, by threads.

    Raises:
      UserError: a file is damaged (the message names it).
    """
    if self._arrays is None:
      self._arrays = frozen(*self._read_by_threads(self._rows))
    return self._arrays

  def _read_by_threads(self, rows: np.ndarray) -> Loaded:
    """`_read_whole`, a part of the rows by each thread."""
    size = rows_at_once(self.stored_shape)
    if len(rows) <= size:
      return self._read_whole(rows)
    images = np.empty((len(rows), *self.stored_shape), np.uint8)
    labels = None if self.num_classes is None else np.empty(len(rows), np.int32)
    extents = None if self.whole is None else np.empty((len(rows), 2), np.int32)

    def read(start: int) -> None:
      part = slice(start, start + size)
      images[part], label, extent = self._read_whole(rows[part])
      if labels is not None and label is not None:
        labels[part] = label
      if extents is not None:
        extents[part] = extent

    with ThreadPoolExecutor(NUM_THREADS) as pool:
      list(pool.map(read, range(0, len(rows), size)))
    return Loaded(images, labels, extents)

  def labels(self) -> np.ndarray | None:
    """All labels [N] int32, or None if unlabeled; images are decoded only where they must be.

    Raises:
      UserError: a file is damaged (the message names it).
    """
    if self.num_classes is None:
      return None
    if self._arrays is not None:
      return self._arrays.label
    return self._labels_by_threads()

  def known_labels(self) -> np.ndarray | None:
    """`labels` if they are known without reading images, else None."""
    return None if self._arrays is None else self._arrays.label

  def _labels_by_threads(self) -> np.ndarray:
    """`_read_labels` of all rows of labeled data, a part of them by each thread."""
    rows = self._rows
    with ThreadPoolExecutor(NUM_THREADS) as pool:
      starts = range(0, len(rows), _PART_ROWS)
      parts = pool.map(lambda i: self._read_labels(rows[i : i + _PART_ROWS]), starts)
      return np.concatenate([part for part in parts if part is not None])

  def checksum(self, most: int | None = None) -> str:
    """SHA-256 (hexadecimal) of shape, class names, labels and pixels.

    With a folder, all file names are part of it. Versions of PIL may decode a JPEG to slightly
    different pixels.

    Args:
      most: number of evenly spaced examples to read; None = all, or 4096 above 256 MiB of pixels.
    """
    digest = hashlib.sha256()
    digest.update(repr((self.num_examples, self.stored_shape, self.class_names)).encode())
    digest.update(self._manifest().encode())
    n = self.num_examples
    if most is None:
      most = _HASH_SAMPLE if self.nbytes > _HASH_ALL_BYTES else n
    indices = np.arange(most) * n // most if n > most else np.arange(n)
    for start in range(0, len(indices), _PART_ROWS):
      image, label, extent = self.load_whole(indices[start : start + _PART_ROWS])
      digest.update(image.tobytes())
      for part in (label, extent):
        if part is not None:
          digest.update(part.astype('<i4').tobytes())
    return digest.hexdigest()


def frozen(image: np.ndarray, label: np.ndarray | None, extent: np.ndarray | None = None) -> Loaded:
  """The arrays themselves, made read-only."""
  for part in (image, label, extent):
    if part is not None:
      part.setflags(write=False)
  return Loaded(image, label, extent)
