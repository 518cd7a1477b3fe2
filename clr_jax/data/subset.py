"""Some examples of a source, read when they are asked for."""

from __future__ import annotations

import numpy as np

from clr_jax.data.base import Source
from clr_jax.types import UserError


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
    )
    self._source = source

  def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    return self._source.load(rows)
