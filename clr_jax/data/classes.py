"""From labels of any integers, or texts, to class numbers."""

from __future__ import annotations

import numpy as np

from clr_jax.core.errors import UserError

UNLABELED = -1
"""The label of an image without a class."""


def checked_labels(labels: np.ndarray, n: int, name: str) -> np.ndarray | None:
  """Checks labels [n] (integers of any size, booleans or texts); returns None if all are -1.

  Raises:
    UserError: labels of another type, not one per image, or -1 for only some of the images.
  """
  if labels.dtype.kind == 'S':
    labels = np.char.decode(labels, 'utf-8', 'backslashreplace')
  if labels.dtype.kind not in 'iubU' or labels.shape != (n,):
    raise UserError(
      f'{name}: labels must be {n} integers or texts, one per image, got {labels.dtype} of shape '
      f'{list(labels.shape)}: convert them first'
    )
  if labels.dtype.kind != 'i' or UNLABELED not in labels or set(np.unique(labels)) == {-1, 1}:
    return labels
  count = int(np.sum(labels == UNLABELED))
  if count == n:
    return None
  raise UserError(
    f'{name}: {count} of {n} labels are -1, which stands for no label: keep unlabeled images in a '
    'split of their own, or number the classes from at least 0'
  )


def class_numbers(
  labels: np.ndarray, training: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Numbers [N] int32 in 0..C-1 of labels, and the names of the C classes: the labels as text.

  Args:
    labels: [N], see `checked_labels`.
    training: [M] labels of the training split. Its classes come first, in ascending order; those
      that it does not have follow.
  """
  known = [] if training is None else _texts(np.unique(training))
  values, position = np.unique(labels, return_inverse=True)
  own = _texts(values)
  names = tuple(dict.fromkeys([*known, *own]))
  number = {name: i for i, name in enumerate(names)}
  return np.array([number[name] for name in own], np.int32)[position.reshape(-1)], names


def _texts(values: np.ndarray) -> list[str]:
  return [str(value) for value in values.tolist()]
