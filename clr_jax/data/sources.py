"""`load_source`: one name -> one source of images."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.data import imagenet100
from clr_jax.data import images as images_lib
from clr_jax.data.base import ArraySource, Source, checked_images, checked_labels
from clr_jax.data.folder import FolderSource
from clr_jax.data.order import shuffled
from clr_jax.data.slices import base_split, resolve_split
from clr_jax.data.subset import ClassSubset
from clr_jax.data.tfds_source import TfdsSource, prepared

_DIGITS_TEST = 360  # of 1797, a fifth
_IMAGE_KEYS = ('image', 'images', 'x')
_LABEL_KEYS = ('label', 'labels', 'y')


def load_source(
  name: str,
  *,
  split: str = 'train',
  data_dir: str | None = None,
  image_size: int | None = None,
  channels: int | None = None,
  limit: int | None = None,
) -> Source:
  """Opens one split of a data set.

  Args:
    name: 'digits' (scikit-learn's, embedded); 'npz:PATH' or a path that ends in .npz, in which
      '{split}' stands for the split; 'folder:PATH'; 'imagenet100', the classes of that name of
      TFDS's imagenet2012; anything else is a TFDS name, 'cifar10', 'name/config' or 'name:1.2.3',
      prepared at first use.
    split: its name, or a slice in TFDS's syntax: 'train[:1000]', 'train[10%:90%]'.
    data_dir: where TFDS data sets are; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    image_size: resizes the shorter side (PIL, bilinear, antialiased) and keeps the central square;
      needed where images differ in size.
    channels: 1 makes images grey (PIL's luma), 3 makes them RGB (grey repeated); default: as they
      are, with a folder RGB.
    limit: at most so many examples, the first of the slice (with a folder: a random subset).

  Raises:
    UserError: unknown name or split, unreadable or unsuitable data.
  """
  if image_size is not None and image_size < 1:
    raise UserError(f'image_size must be at least 1, got {image_size}')
  if channels not in (None, 1, 3):
    raise UserError(f'channels must be 1 (grey) or 3 (RGB), got {channels}')
  if limit is not None and limit < 1:
    raise UserError(f'limit must be at least 1, got {limit}')
  fitted = {'image_size': image_size, 'channels': channels, 'limit': limit}
  if name == 'digits':
    images, labels = _digits(base_split(split))
    sizes = {'train': 1797 - _DIGITS_TEST, 'test': _DIGITS_TEST}
    names = tuple(map(str, range(10)))
    return _array_source(images, labels, name, split, sizes, **fitted, class_names=names)
  if name.startswith('npz:') or name.endswith('.npz'):
    return _npz(name, split, **fitted)
  if name.startswith('folder:'):
    path = name.removeprefix('folder:')
    return FolderSource(path, name=name, split=split, **fitted)
  if name == 'imagenet100':
    fitted['limit'] = None
    whole = TfdsSource(name='imagenet2012', split=base_split(split), data_dir=data_dir, **fitted)
    return ClassSubset(whole, imagenet100.CLASSES, name=name, split=split, limit=limit)
  return TfdsSource(name=name, split=split, data_dir=data_dir, **fitted)


def available(data_dir: str | None = None) -> list[tuple[str, str]]:
  """(name, one line) of what `load_source` can read here without downloading anything."""
  rows = [
    ('digits', '1,797 handwritten digits 8x8 from scikit-learn, 10 classes; train 1,437, test 360'),
    ('npz:PATH', "arrays 'image' [N,H,W,C] uint8 and 'label' [N]; '{split}' in PATH is replaced"),
    ('folder:PATH', 'images, in class sub-folders or flat (unlabeled); train and test sub-folders'),
  ]
  for key, version in prepared(data_dir):
    rows.append((key, f'TFDS, version {version}, prepared'))
    if key == 'imagenet2012':
      rows.append(('imagenet100', "100 classes of imagenet2012, Tian et al.'s list"))
  return rows


def _digits(base: str) -> tuple[np.ndarray, np.ndarray]:
  """All images of a split of the embedded digits: [n, 8, 8] uint8 and labels.

  The test split takes every fifth example or so of the list sorted by class, in a fixed random
  order within the class; that is stratified to one example.
  """
  from sklearn.datasets import load_digits  # takes a second to import

  pixels, labels = map(np.asarray, load_digits(return_X_y=True))
  images = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # 17 levels, 0..16
  mixed = shuffled(0, 0, len(images))
  by_class = mixed[np.argsort(labels[mixed], kind='stable')]
  test = np.zeros(len(images), bool)
  test[by_class[np.arange(_DIGITS_TEST) * len(images) // _DIGITS_TEST]] = True
  chosen = test if base == 'test' else ~test
  return images[chosen], labels[chosen]


def _array_source(
  images: np.ndarray,
  labels: np.ndarray | None,
  name: str,
  split: str,
  sizes: dict[str, int],
  image_size: int | None,
  channels: int | None,
  limit: int | None,
  class_names: tuple[str, ...] | None = None,
) -> ArraySource:
  """Checks before slicing, so that the number of classes is that of the whole split."""
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


def _npz(
  name: str, split: str, image_size: int | None, channels: int | None, limit: int | None
) -> ArraySource:
  base = base_split(split)
  pattern = name.removeprefix('npz:')
  path = Path(pattern.replace('{split}', base)).expanduser()
  if '{split}' not in pattern and base != 'train':
    raise UserError(
      f"{name} has no split {base!r}: all of it is 'train' (write '{{split}}' in the path to name "
      'one file per split)'
    )
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
      images = file[image_key]
      labels = None if label_key is None else file[label_key]
  except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
    raise UserError(f'cannot read {path} as an .npz file ({error})') from error
  return _array_source(
    images, labels, name, split, {base: len(images)}, image_size, channels, limit
  )
