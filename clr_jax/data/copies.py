"""Copies of training images in a test set: found by some of its images, without reading all."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clr_jax.data.base import NUM_THREADS, Source

_SAMPLE = 128  # test images to look for
_MOST_FILES = 4096  # training files to compare, besides those of the same name
_PAIRS = 32  # images to decode of each set
_KEY_PIXELS = 8
_PART_BYTES = 4096  # bytes of the middle of a file, compared before whole files are read


def count_copies(source: Source, training: Source) -> tuple[int, int]:
  """(how many of some evenly spaced images of `source` are in `training` too, how many of them).

  Copies are equal to the bit: files of the same content, or equal pixels where the training images
  are in memory. Other sets of one size are compared image by image, as the copy of a whole set has
  it. If all images are equal, nothing can be said: (0, 0).
  """
  sample = _spread(source.num_examples, _SAMPLE)
  own, others = source.file_names(), training.file_names()
  if own is not None and others is not None:
    own = [own[i] for i in sample]
    return _count_files(_below(source, own), _below(training, _likely(own, others)))
  if source.image_shape != training.image_shape:
    return 0, 0
  if training.in_memory:
    return _found_in(source.load(sample)[0], training.arrays()[0])
  if source.num_examples != training.num_examples:
    return 0, 0
  sample = _spread(source.num_examples, _PAIRS)
  return _found_in(source.load(sample)[0], training.load(sample)[0])


def _likely(own: list[str], others: list[str]) -> list[str]:
  """Other files that may be copies: those with the same name, and some of the rest."""
  names = set(own)
  some = {others[i] for i in _spread(len(others), _MOST_FILES)}
  return [name for name in others if name in names or name in some]


def _below(source: Source, names: list[str]) -> list[str]:
  return [os.path.join(source.origin or '', name) for name in names]


def _count_files(own: list[str], likely: list[str]) -> tuple[int, int]:
  """See `count_copies`; only files of the same size and the same middle part are read."""
  with ThreadPoolExecutor(NUM_THREADS) as pool:
    wanted = set(pool.map(_size, own))
    sizes = pool.map(_size, likely)
    likely = [path for path, size in zip(likely, sizes, strict=True) if size in wanted]
    wanted = set(pool.map(_part, own))
    parts = pool.map(_part, likely)
    likely = [path for path, part in zip(likely, parts, strict=True) if part in wanted]
    return _counted(list(pool.map(_digest, own)), set(pool.map(_digest, likely)))


def _counted(own: list[bytes], others: set[bytes]) -> tuple[int, int]:
  return (sum(x in others for x in own), len(own)) if len(set(own)) > 1 else (0, 0)


def _found_in(images: np.ndarray, others: np.ndarray) -> tuple[int, int]:
  """See `count_copies`, of uint8 images [n, ...] and all others [N, ...]."""
  wanted, own = _keys(images), [image.tobytes() for image in images]
  known, likely = set(own), np.flatnonzero(np.isin(_keys(others), wanted))
  same = {image for i in likely if (image := others[i].tobytes()) in known}
  return _counted(own, same)


def _keys(images: np.ndarray) -> np.ndarray:
  """[N] some evenly spaced values of each of uint8 images [N, ...], as one integer."""
  flat = images.reshape(len(images), -1)
  columns = (2 * np.arange(_KEY_PIXELS) + 1) * flat.shape[1] // (2 * _KEY_PIXELS)
  return np.ascontiguousarray(flat[:, columns]).view(np.uint64)[:, 0]


def _spread(count: int, most: int) -> np.ndarray:
  size = min(most, count)
  return np.arange(size) * count // size


def _size(path: str) -> int:
  """File size in bytes; -1 if the file is missing, which is refused when it is read."""
  try:
    return os.stat(path).st_size
  except OSError:
    return -1


def _part(path: str) -> bytes:
  """Some bytes of the middle of a file, or its path if it cannot be read."""
  try:
    with open(path, 'rb') as file:
      file.seek(os.fstat(file.fileno()).st_size // 2)
      return file.read(_PART_BYTES)
  except OSError:
    return os.fsencode(path)


def _digest(path: str) -> bytes:
  """Digest of the content of a file, or its path if it cannot be read."""
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').digest()
  except OSError:
    return os.fsencode(path)
