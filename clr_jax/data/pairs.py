"""Checks of a training set with a test set: same classes, no shared images; their description."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.names import listed
from clr_jax.data.base import Source
from clr_jax.data.copies import count_copies
from clr_jax.data.slices import base_split, complement, parts_of
from clr_jax.data.subset import RenumberedSource

_MOST_NAMES = 10  # class names in a sentence
_MOST_COPIES = 0.9  # share of a test set; public data sets have a few percent


def numbered_as(source: Source, training: Source) -> Source:
  """Gives `source` the class numbers of a training set; returns it unchanged if they are the same.

  Raises:
    UserError: the training set lacks a class of `source`.
  """
  if source.num_classes is None or training.num_classes is None:
    return source
  own, known = _class_names(source, training), _class_names(training, source)
  if odd := [name for name in own if name not in known]:
    raise _other_classes(source, len(own), training, len(known), odd)
  number = np.array([known.index(name) for name in own], np.int32)
  if (number == np.arange(len(number))).all() and source.class_names in (None, known):
    return source
  return RenumberedSource(source, number, class_names=known)


def refuse_other_classes(source: Source, training: Source) -> None:
  """Raises UserError if the training set lacks a class of `source` or numbers it differently."""
  if source.num_classes is None or training.num_classes is None:
    return
  own, known = _class_names(source, training), _class_names(training, source)
  odd = [name for name in own if name not in known]
  if odd or (source.class_names and training.class_names and own != known):
    raise _other_classes(source, len(own), training, len(known), odd)


def refuse_unseen_classes(source: Source, training: Source) -> None:
  """Raises UserError if `source` has images of classes that have none in the training set.

  Checks only where both labels are known without reading images. Both have the same class numbers.
  """
  own, known = source.known_labels(), training.known_labels()
  if own is None or known is None:
    return
  present, seen = np.unique(own), np.unique(known)
  if odd := [name_of_class(training, i) for i in np.setdiff1d(present, seen).tolist()]:
    raise _other_classes(source, len(present), training, len(seen), odd)


def _other_classes(
  source: Source, count: int, training: Source, known: int, odd: Collection[str]
) -> UserError:
  which = f', which has no image of {_some(odd)}' if odd else ''
  return UserError(
    f'the {count} classes of {source.name} {source.split} are not the {known} of {training.name} '
    f'{training.split}{which}: choose splits with the same classes'
  )


def name_of_class(source: Source, number: int) -> str:
  """The name of a class, or its number where it has none."""
  return source.class_names[number] if source.class_names else str(number)


def _class_names(source: Source, other: Source) -> tuple[str, ...]:
  """The names of the classes of a source to compare with those of another.

  Unnamed classes are compared by number, or by the names of the other source if it has any.
  """
  numbers = tuple(map(str, range(source.num_classes or 0)))
  words = other.class_names or ()
  if source.class_names:
    return tuple(source.class_names)
  if all(word.lstrip('-').isdigit() for word in words):
    return numbers
  return (*words[: len(numbers)], *numbers[len(words) :])


def refuse_shared_images(source: Source, key: str, training: Source, training_key: str) -> None:
  """UserError if a test set shares images with a training set, or is a copy of its images.

  A few copies are allowed, and become one of the test set's `notes`.

  Args:
    source: the test set.
    key, training_key: what names the splits of both, such as 'data.test_split'.
  """
  count = source.shared_examples(training)
  if not count:
    return _refuse_copies(source, key, training, training_key)
  if not {part.origin for part in source.parts} & {part.origin for part in training.parts}:
    raise UserError(
      f'{count:,} of the {source.num_examples:,} images of {key}={source.split!r} are also in '
      f'{training_key}={training.split!r} of {training.name}, through links to folders: remove '
      f'the links'
    )
  first, second = training.split, source.split
  base = base_split(parts_of(first)[0])
  if base == base_split(second) and (rest := complement(second)):
    first = rest
  elif base == base_split(second) and (rest := complement(first)):
    second = rest
  else:
    first, second = f'{base}[:90%]', f'{base}[90%:]'
  raise UserError(
    f'{count:,} of the {source.num_examples:,} images of {key}={source.split!r} are also in '
    f'{training_key}={training.split!r} of {training.name}: take slices that share no image, such '
    f'as {training_key}={first!r} and {key}={second!r}'
  )


def _refuse_copies(source: Source, key: str, training: Source, training_key: str) -> None:
  copies, compared = count_copies(source, training)
  if copies > _MOST_COPIES * compared:
    raise UserError(
      f'the images of {key}={source.split!r} of {source.name} are copies of those of '
      f'{training_key}={training.split!r} of {training.name} ({copies} of {compared} that were '
      f'compared): name other test images'
    )
  note = f'{copies} of {compared} images that were compared are also in {training_key}'
  if copies and note not in source.notes:
    source.notes = (*source.notes, note)


def describe(what: str, source: Source) -> str:
  """One line on a source: number and size of the images, classes, and what was left out."""
  height, width, channels = source.image_shape
  if source.num_classes is None:
    classes = 'no labels'
  elif source.num_classes == 1:
    classes = f'one class only ({name_of_class(source, 0)}), so there is nothing to classify'
  else:
    names = source.class_names or tuple(map(str, range(source.num_classes)))
    classes = f'{source.num_classes:,} classes ({_some(names)})'
  plural = 's' if source.num_examples > 1 else ''
  size = f'{source.num_examples:,} image{plural} of {height}x{width}x{channels}'
  whole = []
  if source.whole is not None:
    size = f'{source.num_examples:,} image{plural} of several sizes'
    canvas, shorter, side, _, how = source.whole
    whole = [
      f'whole, on canvases of {canvas}x{canvas}x{channels} (larger ones are reduced), evaluated at '
      f'the central {side}x{side} of {shorter} pixels a side ({how})'
    ]
  parts = [f'{source.name} {source.split}, {size}, {classes}', *source.notes, *whole]
  return f'{what}: {"; ".join(parts)}'


def _some(names: Collection[str]) -> str:
  names = [name if name.isprintable() else ascii(name)[1:-1] for name in names]
  more = f' and {len(names) - _MOST_NAMES:,} more' if len(names) > _MOST_NAMES else ''
  return listed(names[:_MOST_NAMES]) + more
