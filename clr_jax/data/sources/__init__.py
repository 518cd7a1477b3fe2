"""Data sets by name: one module of this package for each scheme.

A name is 'SCHEME' or 'SCHEME:PATH', where SCHEME is a module here. Any other name is one of TFDS; a
path that ends in .npz needs no scheme. A module whose PATH is a file or folder
sets `NAMES_A_PATH = True`; one whose images may differ in size sets `SIZES_DIFFER = True`, and its
`load` also takes `whole`. The module SCHEME defines two functions:

  load(path, *, name, split, data_dir, image_size, channels, limit) -> Source
      `path` is what follows the colon, or ''; the rest are the arguments of `load_source`.
  available(data_dir) -> [(name, one line), ...]
      data sets that it reads on this machine without a download.

and may define two more, for configs that follow from the data:

  splits(path, data_dir) -> [name, ...]        its splits; default: those of train and test to open
  sizes(path, *, split, data_dir, choose) -> [(height, width), ...]
      of the stored images that `choose(n)` selects; default: all have one size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from clr_jax.core.bounds import Count, Pixels
from clr_jax.core.errors import UserError
from clr_jax.core.options import check
from clr_jax.core.registry import ModuleRegistry, check_made
from clr_jax.data.base import Source
from clr_jax.data.joined import JoinedSource
from clr_jax.data.slices import parts_of
from clr_jax.data.subset import SubsetSource
from clr_jax.data.whole import Whole

SCHEMES = ModuleRegistry(
  'data source', __name__, __path__, function='load', entry_points='clr_jax.data'
)
register = SCHEMES.register
"""Decorates a `load` for the names 'SCHEME' and 'SCHEME:PATH', SCHEME being the function's name.

The decorator takes the other values that a module may define: `@register(NAMES_A_PATH=True)`.
"""


def load_source(
  name: str,
  *,
  split: str = 'train',
  data_dir: str | None = None,
  image_size: Pixels | None = None,
  channels: Literal[1, 3] | None = None,
  limit: Count | None = None,
  whole: Whole | None = None,
) -> Source:
  """Opens one split of a data set.

  Args:
    name: 'digits' (scikit-learn's, embedded); 'npz:PATH' or a path that ends in .npz, in which
      '{split}' stands for the split; 'folder:PATH'; 'imagenet100', the classes of that name of
      TFDS's imagenet2012; anything else is a TFDS name, 'cifar10', 'name/config' or 'name:1.2.3',
      prepared at first use.
    split: its name, or a slice in TFDS's syntax: 'train[:1000]', 'train[10%:90%]'; several are
      joined by +, as in 'train+unlabelled', and are labeled if all of them are.
    data_dir: folder of the TFDS data sets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    image_size: resizes the shorter side (PIL, bilinear, antialiased) and keeps the central square.
    channels: 1 makes images gray (PIL's luma), 3 makes them RGB (gray repeated); default: as they
      are, with a folder RGB.
    limit: largest number of examples: the first of the slice (with a folder: a random subset).
    whole: without `image_size`, how images that differ in size are kept; None refuses them.

  Raises:
    UserError: unknown name or split, a value that the annotations do not allow, unreadable or
      unsuitable data.
  """
  options = {
    'split': split,
    'data_dir': data_dir,
    'image_size': image_size,
    'channels': channels,
    'limit': limit,
  }
  check(load_source, options, what='load_source')
  if len(splits := parts_of(split)) > 1:
    return _joined(name, splits, {**options, 'whole': whole})
  scheme, path = _split(name)
  if whole is not None and may_differ_in_size(name):
    options['whole'] = whole
  elif whole is not None and whole.always:
    options['image_size'] = image_size or whole.size
  source = SCHEMES.factory(scheme)(path, name=name, **options)
  check_made(source, Source, f'data source {scheme!r}')
  return source


def _joined(name: str, splits: list[str], options: Mapping[str, Any]) -> Source:
  """The parts of a joined split as one source; whole images of one size like those of others."""
  found = [load_source(name, **{**options, 'split': part}) for part in splits]
  wholes = [part.whole for part in found]
  if any(wholes) and not all(wholes):
    whole = next(filter(None, wholes))._replace(always=True)
    options = {**options, 'whole': whole}
    found = [load_source(name, **{**options, 'split': part}) for part in splits]
  joined, limit = JoinedSource(found, name=name, split=options['split']), options['limit']
  if limit is None or limit >= joined.num_examples:
    return joined
  return SubsetSource(joined, np.arange(limit))


def _split(name: str) -> tuple[str, str]:
  """(scheme, path); UserError for a path in an object store, where only a user's own may be."""
  scheme, _, path = name.partition(':')
  named = scheme in SCHEMES.names()
  if not named:
    scheme, path = 'npz' if name.endswith('.npz') else 'tfds', name
  if '://' in path and (not named or _names_a_path(scheme)):
    raise UserError(f'{name}: images are read from a disk only: copy them to one')
  return scheme, path


def _names_a_path(scheme: str) -> bool:
  return getattr(SCHEMES.module(scheme), 'NAMES_A_PATH', False)


def path_of(name: str) -> str | None:
  """The absolute path in the name of a data set; None if the name has no path."""
  scheme, path = _split(name)
  if not path or not _names_a_path(scheme):
    return None
  return os.path.abspath(os.path.expanduser(path))


def may_differ_in_size(name: str) -> bool:
  """True if the images of a data set may differ in size, according to its scheme."""
  return getattr(SCHEMES.module(_split(name)[0]), 'SIZES_DIFFER', False)


def absolute_name(name: str) -> str:
  """The name of the same data set from every folder: 'folder:images' -> 'folder:/data/images'."""
  path = path_of(name)
  return name if path is None else f'{_split(name)[0]}:{path}'


def splits_of(name: str, data_dir: str | None = None) -> list[str]:
  """The splits of a data set by name.

  Raises:
    UserError: there is no such data set.
  """
  scheme, path = _split(name)
  module = SCHEMES.module(scheme)
  if hasattr(module, 'splits'):
    return module.splits(path, data_dir)
  found = []
  for split in ('train', 'test'):
    try:
      load_source(name, split=split, data_dir=data_dir, limit=1)
      found.append(split)
    except UserError:
      if split == 'train':
        raise
  return found


def sizes_of(
  name: str, *, split: str, data_dir: str | None, choose: Callable[[int], np.ndarray]
) -> np.ndarray:
  """Heights and widths [n, 2] of stored images.

  Args:
    name, split, data_dir: see `load_source`.
    choose: function from the number of images of the split to the positions to look at.

  Raises:
    UserError: as `load_source` does.
  """
  if len(splits := parts_of(split)) > 1:
    known = {'data_dir': data_dir, 'choose': choose}
    return np.concatenate([sizes_of(name, split=part, **known) for part in splits])
  scheme, path = _split(name)
  module = SCHEMES.module(scheme)
  if hasattr(module, 'sizes'):
    found = module.sizes(path, split=split, data_dir=data_dir, choose=choose)
    return np.array(found, int).reshape(-1, 2)
  source = load_source(name, split=split, data_dir=data_dir)
  return np.array([source.image_shape[:2]])


def available(data_dir: str | None = None) -> list[tuple[str, str]]:
  """(name, one line) of each data set that `load_source` reads here without a download."""
  rows = []
  for scheme in SCHEMES.names():
    module = SCHEMES.module(scheme)
    found = getattr(module, 'available', None)
    rows += found(data_dir) if found else [(scheme, SCHEMES.summary(scheme))]
  return rows
