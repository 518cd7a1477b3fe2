"""Several splits of a data set as one, `train+unlabelled`."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.data.base import Source
from clr_jax.data.pairs import numbered_as
from clr_jax.data.whole import Loaded


class JoinedSource(Source):
  """The examples of several sources, one after another.

  It is labeled if all of them are.
  """

  def __init__(self, sources: Sequence[Source], *, name: str, split: str):
    """sources: at least one, with one size of images.

    Raises:
      UserError: they differ in size or classes, or share images.
    """
    first = sources[0]
    labeled = all(source.num_classes is not None for source in sources)
    if labeled:
      sources = [first, *(numbered_as(source, first) for source in sources[1:])]
    for i, source in enumerate(sources):
      shapes = (source.image_shape, source.whole), (first.image_shape, first.whole)
      if shapes[0] != shapes[1]:
        raise UserError(
          f'the images of {name} {source.split} are {_size(source)} and those of {first.split} '
          f'{_size(first)}: set data.image_size'
        )
      if any(source.shared_examples(other) for other in sources[:i]):
        raise UserError(f'the split {split!r} of {name} repeats images: name each part once')
    bounds = np.cumsum([0, *(source.num_examples for source in sources)])
    notes = dict.fromkeys(note for source in sources for note in source.notes)
    if not labeled and any(source.num_classes is not None for source in sources):
      notes['its labels are not used, because a part has none'] = None
    super().__init__(
      name=name,
      split=split,
      rows=np.arange(bounds[-1]),
      image_shape=first.image_shape,
      num_classes=first.num_classes if labeled else None,
      class_names=first.class_names if labeled else None,
      notes=tuple(notes),
      whole=first.whole,
    )
    self._sources, self._bounds = tuple(sources), bounds

  @property
  def parts(self) -> tuple[Source, ...]:
    return self._sources

  def stored_files(self, folders: Collection[str] | None = None) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for source in self._sources:
      for folder, names in source.stored_files(folders).items():
        found.setdefault(folder, set()).update(names)
    return found

  def file_names(self) -> list[str] | None:
    found: list[str] = []
    for source in self._sources:
      names = source.file_names()
      if names is None:
        return None
      found += [os.path.join(source.origin or '', name) for name in names]
    return found

  def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    return self._read_whole(rows)[:2]

  def _read_whole(self, rows: np.ndarray) -> Loaded:
    images = np.zeros((len(rows), *self.stored_shape), np.uint8)
    labels = None if self.num_classes is None else np.empty(len(rows), np.int32)
    extents = None if self.whole is None else np.empty((len(rows), 2), np.int32)
    for number, source in enumerate(self._sources):
      own = (rows >= self._bounds[number]) & (rows < self._bounds[number + 1])
      if own.any():
        images[own], label, extent = source.load_whole(rows[own] - self._bounds[number])
        if labels is not None:
          labels[own] = label
        if extents is not None:
          extents[own] = extent
    return Loaded(images, labels, extents)

  def labels(self) -> np.ndarray | None:
    return self._joined([source.labels() for source in self._sources])

  def known_labels(self) -> np.ndarray | None:
    return self._joined([source.known_labels() for source in self._sources])

  def _joined(self, parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if self.num_classes and len(known) == len(parts) else None


def _size(source: Source) -> str:
  if source.whole is not None:
    return 'of several sizes'
  return 'x'.join(map(str, source.image_shape))
