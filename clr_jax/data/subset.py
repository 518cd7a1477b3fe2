"""Subsets of a source, by position or by class; images are read on demand."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.data.base import Source
from clr_jax.data.slices import base_split, selected_rows
from clr_jax.data.whole import Loaded


class SubsetSource(Source):
  """Example i is example `positions[i]` of another source; classes are those of the other."""

  def __init__(self, source: Source, positions: np.ndarray):
    """positions [n] integers in 0..N-1, n >= 1.

    Raises:
      UserError: none, or one that is not in the source.
    """
    rows = np.asarray(positions)
    if not len(rows) or rows.min() < 0 or rows.max() >= source.num_examples:
      raise UserError(
        f'a subset of {source.name} needs at least one position, all from 0 to '
        f'{source.num_examples - 1}'
      )
    super().__init__(
      name=source.name,
      split=source.split,
      rows=rows,
      image_shape=source.image_shape,
      num_classes=source.num_classes,
      class_names=source.class_names,
      origin=source.origin,
      notes=source.notes,
      whole=source.whole,
    )
    self._source = source

  @property
  def stored_rows(self) -> np.ndarray:
    return self._source.stored_rows[self._rows]

  @property
  def parts(self) -> tuple[Source, ...]:
    if len(self._source.parts) == 1:
      return (self,)
    found, start = [], 0
    for part in self._source.parts:
      own = self._rows[(self._rows >= start) & (self._rows < start + part.num_examples)]
      found += [SubsetSource(part, own - start)] if len(own) else []
      start += part.num_examples
    return tuple(found)

  def stored_files(self, folders: Collection[str] | None = None) -> dict[str, set[str]]:
    return self._source.stored_files(folders)

  def file_names(self) -> list[str] | None:
    names = self._source.file_names()
    return None if names is None else [names[row] for row in self._rows]

  def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    return self._read_whole(rows)[:2]

  def _read_whole(self, rows: np.ndarray) -> Loaded:
    loaded = self._source.load_whole(rows)
    return loaded._replace(label=self._numbers(loaded.label))

  def _numbers(self, labels: np.ndarray | None) -> np.ndarray | None:
    """The class numbers of examples, from those that the other source gives them."""
    return labels

  def labels(self) -> np.ndarray | None:
    labels = self._source.labels()
    return None if labels is None else labels[self._rows]

  def known_labels(self) -> np.ndarray | None:
    labels = self._source.known_labels()
    return None if labels is None else labels[self._rows]


class RenumberedSource(SubsetSource):
  """All examples of another labeled source, with other numbers of its classes."""

  def __init__(self, source: Source, number: np.ndarray, *, class_names: tuple[str, ...]):
    """
    Args:
      number: [C] the new number of each class of `source`.
      class_names: names of the renumbered classes.
    """
    super().__init__(source, np.arange(source.num_examples))
    self.num_classes, self.class_names = len(class_names), class_names
    self._number = np.asarray(number, np.int32)

  def labels(self) -> np.ndarray | None:
    return self._numbers(super().labels())

  def known_labels(self) -> np.ndarray | None:
    return self._numbers(super().known_labels())

  def _numbers(self, labels: np.ndarray | None) -> np.ndarray | None:
    return None if labels is None else self._number[labels]


class ClassSubset(SubsetSource):
  """The examples of some classes, numbered 0..K-1 in the order in which the classes are given."""

  def __init__(
    self, source: Source, class_names: Sequence[str], *, name: str, split: str, limit: int | None
  ):
    """Reads all labels of `source`, a whole split.

    Args:
      class_names: some of those of the source.
      name: name of the subset.
      split: that of the source, maybe with a slice, which counts examples of the subset.
      limit: largest number of examples.

    Raises:
      UserError: unlabeled data, an unknown class, or a slice that selects nothing.
    """
    labels, known = source.labels(), source.class_names
    if labels is None or known is None or not set(class_names) <= set(known):
      raise UserError(
        f'{name} is made of classes that the split {source.split!r} of {source.name} does not '
        f"name: take train or validation of TFDS's own {source.name}"
      )
    number = np.full(len(known), -1, np.int32)
    number[[known.index(c) for c in class_names]] = np.arange(len(class_names))
    positions = np.flatnonzero(number[labels] >= 0)
    sizes = {base_split(split): len(positions)}
    _, rows = selected_rows(split, sizes, source=name, limit=limit)
    super().__init__(source, positions[rows])
    self.name, self.split = name, split
    self.num_classes, self.class_names = len(class_names), tuple(class_names)
    self._number = number

  def labels(self) -> np.ndarray | None:
    return self._numbers(super().labels())

  def known_labels(self) -> np.ndarray | None:
    return None  # those of all images have been read, but may have changed

  def _numbers(self, labels: np.ndarray | None) -> np.ndarray | None:
    """Raises UserError if the examples no longer have the labels that were read at the start."""
    if labels is None:
      return None
    numbers = self._number[labels]
    if (numbers < 0).any():
      raise UserError(
        f'an example of {self.name} has a class outside it: {self._source.name} has changed since '
        'its labels were read; remove the files clr_jax-labels-*.npy beside it and in '
        '~/.cache/clr_jax, and start again'
      )
    return numbers
