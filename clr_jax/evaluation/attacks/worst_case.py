"""Worst case over several attacks at one budget, as in AutoAttack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from clr_jax.core.bounds import Count, CountOrZero, Iterations
from clr_jax.core.errors import UserError
from clr_jax.core.options import checked
from clr_jax.evaluation.attacks.apgd import apgd, apgd_targeted
from clr_jax.evaluation.attacks.base import (
  AttackResult,
  Problem,
  correct,
  fold,
  image_keys,
)
from clr_jax.evaluation.attacks.square import square
from clr_jax.ops.batches import batches

Attack = Callable[..., AttackResult]  # (problem, key=[B] keys)


class WorstCase(NamedTuple):
  """`AttackResult` of all images, as numpy arrays, with the successful attack of each.

  Attributes:
    images, success, distance: as in `AttackResult`; robust accuracy is 1 - mean(success).
    broken_by_attack: [N] name of the first attack that succeeded; 'clean' if misclassified without
      attack, '' if all attacks failed.
  """

  images: np.ndarray
  success: np.ndarray
  distance: np.ndarray
  broken_by_attack: np.ndarray


@checked
def auto_attacks(
  *,
  steps: Iterations = 100,
  targets: Count = 9,
  queries: CountOrZero = 5000,
) -> dict[str, Attack]:
  """Attacks of AutoAttack's standard version except FAB: APGD-CE, APGD-T, Square.

  Args:
    steps: number of steps of both APGDs.
    targets: number of target classes of APGD-T.
    queries: number of queries of Square; 0 leaves it out.
  """
  attacks: dict[str, Attack] = {
    'apgd-ce': partial(apgd, steps=steps),
    'apgd-t': partial(apgd_targeted, steps=steps, targets=targets),
  }
  if queries:
    attacks['square'] = partial(square, queries=queries)
  return attacks


@checked
def worst_case(
  problem: Problem,
  *,
  attacks: Mapping[str, Attack],
  batch_size: Count,
  key: Any,
) -> WorstCase:
  """Runs attacks in order, each on the images that are still classified correctly.

  Images are packed into full batches, with the last one padded, so that nothing compiles twice.

  Args:
    problem: problem with any number of images.
    attacks: attacks by name, such as `auto_attacks(...)` or partial(pgd, ...); each is called as
      attack(problem, key=[B] keys).
    batch_size: number of images attacked at a time.
    key: random key of all attacks; results do not depend on batch_size beyond rounding.

  Raises:
    UserError: no attack, no image, or errors of the attacks.
  """
  size = len(problem.images)
  if not attacks or not size:
    raise UserError(f'{len(attacks)} attacks on {size} images: give at least one of each')
  found = np.array(problem.images)
  success = np.zeros(size, bool)
  distance = np.full(size, np.inf)
  broken_by_attack = np.full(size, '', dtype=object)
  for rows, real in batches(np.arange(size), batch_size):
    part = problem.take(rows)
    right = correct(part.classifier, part.images, part.labels)
    success[rows[:real]] = ~np.asarray(right)[:real]
  distance[success], broken_by_attack[success] = 0, 'clean'
  keys = image_keys(key, size)
  for number, (name, attack) in enumerate(attacks.items()):
    attack_keys = fold(keys, number)
    for rows, real in batches(np.flatnonzero(~success), batch_size):
      result = attack(problem.take(rows), key=attack_keys[rows])
      rows, hit = rows[:real], np.asarray(result.success)[:real]
      found[rows[hit]] = np.asarray(result.images)[:real][hit]
      success[rows] = hit
      distance[rows] = np.asarray(result.distance)[:real]
      broken_by_attack[rows[hit]] = name
  return WorstCase(found, success, distance, broken_by_attack.astype(str))
