"""Subsets of labeled examples: class-stratified, balanced, or simply random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clr_jax.core.bounds import Count, CountOrZero, Seed, Share
from clr_jax.core.errors import UserError
from clr_jax.core.options import checked


def stratified_subset(label: np.ndarray, size: int, *, seed: int | Sequence[int]) -> np.ndarray:
  """Draws a subset with the class proportions of the whole and at least one example per class.

  Every class gets the integer part of its quota size * count / N, or 1 if that is 0; the remaining
  examples go one by one to the classes furthest below their quota (largest remainder), and excess
  examples are taken from the classes furthest above theirs. Ties go to the smaller class. The
  subset is a function of (label, size, seed), independent of the features.

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


def balanced_subset(label: np.ndarray, per_class: int, *, seed: int | Sequence[int]) -> np.ndarray:
  """Draws a subset with `per_class` examples of every class.

  Args:
    label: [N] integers, any values.

  Returns:
    [per_class * classes] sorted positions.

  Raises:
    UserError: a class with fewer examples.
  """
  values, count = np.unique(label, return_counts=True)
  if per_class > count.min():
    raise UserError(
      f'per_class={per_class} must be at most {count.min()}, the number of labeled examples of '
      f'class {values[np.argmin(count)]}'
    )
  rng = np.random.default_rng(seed)
  parts = [rng.permutation(np.flatnonzero(label == value))[:per_class] for value in values]
  return np.sort(np.concatenate(parts))


def random_subset(label: np.ndarray, size: int, *, seed: int | Sequence[int]) -> np.ndarray:
  """Draws a simple random subset without replacement, which may lack classes.

  The robustness document draws 100, 10 and 1 % of the labels in this way.

  Args:
    label: [N].
    size: number of examples, at least the number of classes and at most N.

  Returns:
    [size] sorted positions.

  Raises:
    UserError: fewer examples than classes, or more than there are.
  """
  classes = len(np.unique(label))
  if not classes <= size <= len(label):
    raise UserError(
      f'{size} labels are not between one for each of {classes} classes and all {len(label)}; '
      'change label_fraction or per_class'
    )
  return np.sort(np.random.default_rng(seed).permutation(len(label))[:size])


@checked
def labeled_subset(
  label: np.ndarray,
  *,
  label_fraction: Share | None = None,
  per_class: Count | None = None,
  balanced: bool = True,
  seed: Seed = 0,
  draw: CountOrZero = 0,
) -> np.ndarray:
  """Draws the labeled examples that all protocols use for one draw of few labels.

  They depend only on the labels, the amount, the seed and the draw, so different features and
  networks are measured with the same labels.

  Args:
    label: [N] integers, any values.
    label_fraction: share of the labels, in (0, 1]; all labels if neither amount is given.
    per_class: number of labels per class.
    balanced: True stratifies a share by class (`stratified_subset`) and draws the same number from
      every class (`balanced_subset`); False draws as many labels at random (`random_subset`).

  Returns:
    [n] sorted positions.

  Raises:
    UserError: both amounts, or one that the labels do not have.
  """
  if label_fraction is not None and per_class is not None:
    raise UserError('give label_fraction or per_class, not both')
  subset_seed = int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])
  if per_class is not None:
    if balanced:
      return balanced_subset(label, per_class, seed=subset_seed)
    return random_subset(label, per_class * len(np.unique(label)), seed=subset_seed)
  fraction = 1.0 if label_fraction is None else label_fraction
  choose = stratified_subset if balanced else random_subset
  return choose(label, round(fraction * len(label)), seed=subset_seed)
