"""Class-stratified subsets of labeled examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clr_jax.types import UserError


def stratified_subset(label: np.ndarray, size: int, *, seed: int | Sequence[int]) -> np.ndarray:
  """A random subset with the class proportions of the whole and at least one example per class.

  Every class gets the whole part of its quota size * count / N, or 1 if that is 0; the examples
  that are left go one by one to the classes furthest below their quota (largest remainder), and
  where the ones are too many, the classes furthest above theirs give one back. Equal remainders go
  to the smaller class. The same (label, size, seed) is the same subset whatever the features are.

  Args:
    label: [N] integers, any values.
    size: number of examples, at most N.

  Returns:
    [size] sorted positions.

  Raises:
    UserError: fewer examples than classes.
  """
  _, position, count = np.unique(label, return_inverse=True, return_counts=True)
  if size < len(count):
    raise UserError(
      f'{size} labels are too few for {len(count)} classes; raise label_fraction to at least '
      f'{len(count) / len(label):.3g} so that every class has one'
    )
  quota = size * count / len(label)
  take = np.maximum(np.floor(quota).astype(int), 1)
  while (spare := size - take.sum()) != 0:
    if spare > 0:
      take[np.argmax(np.where(take < count, quota - take, -np.inf))] += 1
    else:
      take[np.argmin(np.where(take > 1, quota - take, np.inf))] -= 1
  rng = np.random.default_rng(seed)
  parts = [rng.permutation(np.flatnonzero(position == c))[:n] for c, n in enumerate(take)]
  return np.sort(np.concatenate(parts))
