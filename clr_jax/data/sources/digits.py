"""The handwritten digits that are embedded in scikit-learn, split into train and test."""

from __future__ import annotations

from typing import Any

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.data.arrays import ArraySource, array_source
from clr_jax.data.order import shuffled
from clr_jax.data.slices import base_split

_SIZE, _TEST = 1797, 360  # all digits, and a fifth of them
_CLASSES = tuple(map(str, range(10)))


def load(path: str, *, split: str, data_dir: str | None, **options: Any) -> ArraySource:
  """One split of the digits: [n, 8, 8, 1] uint8; see `clr_jax.data.sources`."""
  del data_dir
  if path:
    raise UserError(f"the data set 'digits' takes no path: leave {':' + path!r} out")
  images, labels = _digits(base_split(split))
  sizes = {'train': _SIZE - _TEST, 'test': _TEST}
  return array_source(images, labels, sizes, split=split, class_names=_CLASSES, **options)


def splits(path: str, data_dir: str | None) -> list[str]:
  """Train and test; see `clr_jax.data.sources`."""
  del path, data_dir
  return ['train', 'test']


def available(data_dir: str | None) -> list[tuple[str, str]]:
  """The digits; see `clr_jax.data.sources`."""
  del data_dir
  return [
    ('digits', '1,797 handwritten digits 8x8 from scikit-learn, 10 classes; train 1,437, test 360')
  ]


def _digits(base: str) -> tuple[np.ndarray, np.ndarray]:
  """All images of a split: [n, 8, 8] uint8 and labels.

  The test split takes every fifth example or so of the list sorted by class, in a fixed random
  order within the class; that is stratified to one example.
  """
  from sklearn.datasets import load_digits  # takes a second to import

  pixels, labels = map(np.asarray, load_digits(return_X_y=True))
  images = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # 17 levels, 0..16
  mixed = shuffled(0, 0, len(images))
  by_class = mixed[np.argsort(labels[mixed], kind='stable')]
  test = np.zeros(len(images), bool)
  test[by_class[np.arange(_TEST) * len(images) // _TEST]] = True
  chosen = test if base == 'test' else ~test
  return images[chosen], labels[chosen]
