"""Worst case over several attacks at one budget, in the manner of AutoAttack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.evaluation.attacks.apgd import apgd, apgd_targeted
from clr_jax.evaluation.attacks.base import (
  Attacked,
  Classifier,
  as_arrays,
  batches,
  check_budget,
  correct,
  fold,
  image_keys,
)
from clr_jax.evaluation.attacks.square import square

Attack = Callable[..., Attacked]  # (classifier, images, labels, key=[B] keys)


class WorstCase(NamedTuple):
  """`Attacked` of all images, as numpy arrays, and what broke each.

  Attributes:
    images, success, distance: as in `Attacked`; robust accuracy is 1 - mean(success).
    broken_by: [N] name of the first attack that succeeded; 'clean' where misclassified from the
      start, '' where the image stands.
  """

  images: np.ndarray
  success: np.ndarray
  distance: np.ndarray
  broken_by: np.ndarray


def auto_attacks(
  *,
  norm: Literal['l2', 'linf'],
  epsilon: float,
  steps: int = 100,
  targets: int = 9,
  queries: int = 5000,
) -> dict[str, Attack]:
  """The attacks of AutoAttack's standard version but FAB: APGD-CE, APGD-T, Square.

  Args:
    steps: of both APGDs. targets: of APGD-T. queries: of Square, 0 leaves it out.

  Raises:
    UserError: no positive budget, no step, an unknown norm.
  """
  check_budget(norm, epsilon, steps)
  budget = {'norm': norm, 'epsilon': epsilon}
  attacks: dict[str, Attack] = {
    'apgd-ce': partial(apgd, **budget, steps=steps),
    'apgd-t': partial(apgd_targeted, **budget, steps=steps, targets=targets),
  }
  if queries:
    attacks['square'] = partial(square, **budget, queries=queries)
  return attacks


def worst_case(
  classifier: Classifier,
  images: Any,
  labels: Any,
  *,
  attacks: Mapping[str, Attack],
  batch_size: int,
  key: Any,
) -> WorstCase:
  """Runs the attacks in their order, each on the images that still stand.

  What stands is packed into full batches, the last one filled up, so that nothing compiles twice.

  Args:
    images: [N, H, W, C] floats in [0, 1]. labels: [N] integers.
    attacks: by name, such as `auto_attacks(...)` or partial(pgd, norm=..., ...); each is called
      as attack(classifier, images, labels, key=[B] keys).
    key: of all attacks; results do not depend on batch_size beyond rounding.

  Raises:
    UserError: no attack, a batch size below 1, and what the attacks raise.
  """
  if not attacks or batch_size < 1:
    raise UserError(
      f'{len(attacks)} attacks in batches of {batch_size}: give at least one attack and one image '
      'a batch'
    )
  if len(images) == 0:
    raise UserError('there are no images to attack; give at least one')
  images, labels = np.asarray(images), np.asarray(labels)
  found = images.copy()
  success = np.zeros(len(images), bool)
  distance = np.full(len(images), np.inf)
  broken_by = np.full(len(images), '', dtype=object)
  for rows, real in batches(len(images), batch_size):
    right = correct(*classifier, *as_arrays(images[rows], labels[rows]))
    success[rows[:real]] = ~np.asarray(right)[:real]
  distance[success], broken_by[success] = 0, 'clean'
  keys = image_keys(key, len(images))
  for number, (name, attack) in enumerate(attacks.items()):
    standing = np.flatnonzero(~success)
    attack_keys = fold(keys, number)
    for positions, real in batches(len(standing), batch_size):
      rows = standing[positions]
      result = attack(classifier, images[rows], labels[rows], key=attack_keys[rows])
      rows, hit = rows[:real], np.asarray(result.success)[:real]
      found[rows[hit]] = np.asarray(result.images)[:real][hit]
      success[rows] = hit
      distance[rows] = np.asarray(result.distance)[:real]
      broken_by[rows[hit]] = name
  return WorstCase(found, success, distance, broken_by.astype(str))
