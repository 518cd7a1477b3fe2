"""Reads the sub-folders of an image folder as splits, classes, or neither.

The name of a split is never taken as a class silently; `Split.notes` says how it was read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from clr_jax.core.errors import UserError
from clr_jax.core.names import listed
from clr_jax.data import walking
from clr_jax.data.walking import Listing, list_images, sub_folders

_FAMILIES = {
  'train': ('train', 'training'),
  'test': ('test', 'testing'),
  'val': ('val', 'valid', 'validation'),
}
# Finds the split in 'train_images', 'Test set', 'ValidationData'.
_SUFFIX = re.compile(r'(datasets?|sets?|data|images|imgs|split|folder|samples)$')
_ANNOTATIONS = 'val_annotations.txt'


class Split(NamedTuple):
  """The images of one split of a folder.

  Attributes:
    folder: that they lie in.
    files: relative paths with '/', sorted.
    classes: the class of each; None for unlabeled images.
    class_names: classes of the training split, sorted; () if it is unlabeled.
    notes: how the folders were read and what was left out, as parts of a sentence.
  """

  folder: str
  files: list[str]
  classes: list[str] | None
  class_names: tuple[str, ...]
  notes: tuple[str, ...]


def read_split(root: Path, base: str) -> Split:
  """Lists the images of a split, and those of the training split for the classes.

  Args:
    root: folder with splits, with classes, or with images.
    base: name of the split, 'train', 'test', 'val' or another name of one of them.

  Raises:
    UserError: no such folder or split, no image in it, a folder that cannot be read, or classes
      that are unclear.
  """
  folder, train, notes = _find_split(root, base)
  if folder == train:
    folder, listing, more = _unwrapped(folder, ())
    classes, about = _training_classes(folder, listing)
    names = _names(classes)
  else:
    names = _names(_training_classes(*_unwrapped(train, ())[:2])[0])
    folder, listing, more = _unwrapped(folder, names)
    classes, about = _classes(listing.images, folder, names), ()
    if odd := set(classes or ()) - set(names):
      raise UserError(
        f'the class {min(odd)!r} of {folder} does not exist in the training split {train}: move '
        'it away, or add images of it there'
      )
    if empty := sorted(set(names) - set(classes)) if classes else []:
      about = (f'no image of {_some(empty)}',)
  if kinds := listing.skipped_kinds():
    about = (*about, f'not read: {walking.counted(kinds)}')
  return Split(folder, listing.images, classes, names, (*notes, *more, *about))


# ---------------------------------------------------------------- splits
def splits(root: Path) -> list[str]:
  """The splits that a folder has, 'train' first; ['train'] if it has no sub-folders for them.

  Raises:
    UserError: there is no such folder, or it cannot be read.
  """
  found, _ = _split_folders(root)
  return [family for family in _FAMILIES if family in found.values()] or ['train']


def _split_folders(root: Path) -> tuple[dict[str, str], list[str]]:
  """({sub-folder that is a split: its family}, the other sub-folders)."""
  if not os.path.isdir(root):  # also false where its folder cannot be entered
    raise UserError(f'there is no image folder {root}: correct the path')
  below = list(sub_folders(str(root)))
  found = {name: family for name in below if (family := _family(name))}
  others = [name for name in below if name not in found]
  return ({}, below) if _is_class(root, found, others) else (found, others)


def _find_split(root: Path, base: str) -> tuple[str, str, tuple[str, ...]]:
  """(folder of the split, folder of the training split, notes)."""
  splits, others = _split_folders(root)
  if not splits:
    if _family(base) != 'train':
      raise UserError(
        f'the folder {root} has no split {base!r}: it has no train sub-folder, so all of it is '
        "'train' (make the sub-folders train and test, or take two slices: "
        "data.train_split='train[:90%]' and data.test_split='train[90%:]')"
      )
    return str(root), str(root), ()
  if 'train' not in splits.values():
    raise _no_training_split(root, [*splits], others)
  train, found = _pick(root, 'train', splits), _pick(root, base, splits)
  if found is None and _family(base) == 'test':
    found = _pick(root, 'val', splits)
  if train is None or found is None:
    known = [family for family in _FAMILIES if family in splits.values()]
    raise UserError(f'the folder {root} has no split {base!r}: choose one of {listed(known)}')
  others += [name for name in splits if splits[name] == splits[found] and name != found]
  if loose := _loose_images(root):
    others.append(f'{loose:,} loose images')
  left = (f'left out, beside the splits: {_some(others)}',) if others else ()
  return str(root / found), str(root / train), left


def _family(name: str) -> str | None:
  """The split that a folder's name stands for, or None."""
  letters = re.sub(r'[^a-z]', '', name.lower())
  short = _SUFFIX.sub('', letters)
  return next((k for k, names in _FAMILIES.items() if {letters, short} & set(names)), None)


def _is_class(root: Path, splits: Mapping[str, str], others: Iterable[str]) -> bool:
  """True if 'train' is a class: it contains only images, like the folders beside it."""
  names = [*splits]
  if len(names) != 1 or names[0].lower() != 'train' or list(sub_folders(str(root / names[0]))):
    return False
  return any(_loose_images(root / name) for name in others)


def _loose_images(folder: Path) -> int:
  suffixes = [os.path.splitext(entry.name)[1].lower() for entry in walking.entries(str(folder))]
  return sum(suffix in walking.EXTENSIONS for suffix in suffixes)


def _pick(root: Path, base: str, splits: Mapping[str, str]) -> str | None:
  """The folder of that name, else of that name in any case, else of another name of the split."""
  for alike in (
    [name for name in splits if name == base],
    [name for name in splits if name.lower() == base.lower()],
    [name for name, family in splits.items() if family == _family(base)],
  ):
    if len(alike) > 1:
      raise UserError(
        f'the folders {listed(alike)} of {root} are one split by their names: rename or remove '
        'all but one'
      )
    if alike:
      return alike[0]
  return None


def _no_training_split(root: Path, splits: list[str], others: list[str]) -> UserError:
  if others:
    return UserError(
      f'the folder {root} holds {_some(splits)}, the name of a split, beside {_some(others)}, and '
      'no training split: move the classes that are trained on into a sub-folder train, or rename '
      f'{splits[0]} if it is a class'
    )
  return UserError(
    f'the folder {root} has no training split, only {_some(splits)}: make the sub-folder train, or '
    f'give one of them as the data set: folder:{root / splits[0]}'
  )


# ---------------------------------------------------------------- classes
def _unwrapped(folder: str, known: tuple[str, ...]) -> tuple[str, Listing, tuple[str, ...]]:
  """The folder whose sub-folders are the classes, its images, and a note if it is a deeper one.

  Args:
    folder: folder of a split.
    known: classes of the training split, which are never searched for classes.
  """
  listing = list_images(folder)
  if not listing.images:
    kinds = listing.skipped_kinds()
    only = f', only {walking.counted(kinds)}' if kinds else ''
    raise UserError(
      f'the folder {folder} holds no image{only}: give a folder with files of '
      f'{", ".join(walking.EXTENSIONS)}'
    )
  folders = listing.folders
  common = os.path.commonpath(folders) if '' not in folders else ''
  # A folder with loose images is a class, however deep it lies.
  if not common or common in folders or common.split('/')[0] in known:
    return folder, listing, ()
  deeper = f'{folder}/{common}'
  return deeper, list_images(deeper), (f'the classes are the sub-folders of {common}',)


def _training_classes(folder: str, listing: Listing) -> tuple[list[str] | None, tuple[str, ...]]:
  """The class of each image of a training split, and notes."""
  classes = _classes(listing.images, folder)
  if classes is None:
    return None, ('no class folders, so unlabeled',)
  names = _names(classes)
  notes = _split_names(folder, names)
  _refuse_splits_in_classes(folder, listing.folders)
  without = {k: v for k, v in listing.skipped.items() if k and k not in names}
  for name, kinds in without.items():
    unread = walking.looks_like_images(kinds)
    if unread or not kinds:
      found = f', only {walking.counted(kinds)}' if kinds else ''
      raise UserError(
        f'the class folder {folder}/{name} holds no image that is read{found}: '
        f'{"convert them to PNG or JPEG" if unread else "add images"}, or remove the folder'
      )
  if without:
    notes += (f'no classes, as no image is in them: {_some([*without])}',)
  return classes, notes


def _split_names(folder: str, names: tuple[str, ...]) -> tuple[str, ...]:
  """A note if 'train' is a class; UserError for other classes with names of splits."""
  odd = [name for name in names if _family(name)]
  if not odd:
    return ()
  if [name.lower() for name in odd] == ['train'] and len(names) > 1:
    return (f'{odd[0]!r} is taken as a class, not as a split',)
  raise UserError(
    f'{_some(odd)} in {folder} has the name of a split where classes are expected: give '
    f'folder:{folder} as the data set if it holds the splits, or rename it if it is a class'
  )


def _refuse_splits_in_classes(folder: str, below: Iterable[str]) -> None:
  seen: dict[str, str] = {}
  for parts in {tuple(name.split('/')[:2]) for name in below if '/' in name}:
    if family := _family(parts[1]):
      seen[family] = '/'.join(parts)
  if len(seen) > 1:
    raise UserError(
      f'the class folders of {folder} hold splits, such as {listed(sorted(seen.values()))}: sort '
      'the images into SPLIT/CLASS/FILE, or give one of the class folders as the data set'
    )


def _classes(files: list[str], folder: str, known: tuple[str, ...] = ()) -> list[str] | None:
  """The class of each file, None for unlabeled images; `known` are the training split's."""
  flat = [f for f in files if '/' not in f]
  if flat and len(flat) < len(files):
    raise UserError(
      f'the folder {folder} holds both class sub-folders and loose images such as {flat[0]}: move '
      'the loose ones away or all images into one flat folder'
    )
  classes = [f.partition('/')[0] for f in files]
  # As in Tiny ImageNet's val and test.
  below_images = set(classes) == {'images'} and 'images' not in known
  annotations = Path(folder) / _ANNOTATIONS
  if (flat or below_images) and annotations.is_file():
    return _annotated(files, annotations)
  if below_images and known:
    if _family(annotations.parent.name) == 'test':
      return None
    raise UserError(
      f'the images of {folder} have no classes: restore {annotations} or sort them into class '
      'sub-folders'
    )
  return None if flat else classes


def _annotated(files: list[str], annotations: Path) -> list[str]:
  """Classes by the lines of Tiny ImageNet's val_annotations.txt: file, class, box; tabs between."""
  try:
    lines = annotations.read_text().splitlines()
  except (OSError, ValueError) as error:  # a ValueError is of bytes that are no text
    raise UserError(f'cannot read {annotations} ({error}): unpack the folder again') from error
  rows = [line.split('\t') for line in lines if line.strip()]
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


def _some(names: Iterable[str], most: int = 5) -> str:
  """Joins names by commas, at most the first few."""
  names = list(names)
  return listed(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')
