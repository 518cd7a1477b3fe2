"""Square attack: random search without gradients, unaffected by gradient masking."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from clr_jax.core.bounds import Iterations, Share
from clr_jax.core.errors import UserError
from clr_jax.core.options import checked
from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array
from clr_jax.evaluation.attacks.base import (
  AttackResult,
  Problem,
  evaluate_candidates,
  fold,
  image_keys,
  logits_of,
)
from clr_jax.evaluation.attacks.losses import margin
from clr_jax.evaluation.attacks.norms import expand_like
from clr_jax.evaluation.attacks.squares import bump, paint, side_of, starts


@checked
def square(
  problem: Problem,
  *,
  queries: Iterations = 5000,
  share: Share = 0.8,
  key: Any,
) -> AttackResult:
  """Square Attack (Andriushchenko et al., ECCV 2020).

  In linf, from vertical stripes of +-epsilon, each query paints a random square with +-epsilon per
  channel; in l2, from a grid of bumps, it moves perturbation from one square to another. A query
  is kept where the margin of the logits grows. Stops when every image is misclassified.

  Args:
    problem: problem with a budget in 'l2' or 'linf' and images [B, H, W, C] of at least 3x3 pixels.
    queries: number of queries; 5000 as in AutoAttack.
    share: share of the pixels in the first squares; .8 as in AutoAttack.
    key: a random key, or one per image.

  Raises:
    UserError: no budget, other norms, or images smaller than 3x3 pixels.
  """
  problem.check_budget()
  images, norm = problem.images, problem.norm
  if images.ndim != 4 or min(images.shape[1:3]) < 3:
    raise UserError(
      f'square needs images [B, H, W, C] of at least 3 by 3 pixels, not {images.shape}'
    )
  size = images.shape[1:3]
  keys = image_keys(key, len(images))
  point, gap = _begin(problem, keys)
  for query in range(1, queries):
    # A round trip to the host takes as long as a query of a small network, so check rarely.
    if query % 10 == 1 and (gap > 0).all():
      break
    side = side_of(query - 1, queries, share, size, norm)
    shape = bump(side, max(size)) if norm == 'l2' else None
    point, gap = _query(problem, keys, query, point, gap, side, shape)
  return evaluate_candidates(problem, point)


@host_jit
def _begin(problem: Problem, keys: Array) -> tuple[Array, Array]:
  point = starts(fold(keys, 0), problem.images, problem.epsilon, problem.norm)
  return point, margin(logits_of(problem.classifier, point), problem.labels)


@host_jit
def _query(
  problem: Problem, keys: Array, query: Any, point: Array, gap: Array, side: Any, shape: Any
) -> tuple[Array, Array]:
  keys = fold(keys, query)
  trial = paint(keys, point, problem.images, problem.epsilon, side, shape, problem.norm)
  trial_gap = margin(logits_of(problem.classifier, trial), problem.labels)
  better = (gap <= 0) & (trial_gap > gap)  # a misclassified point stays
  return jnp.where(expand_like(better, point), trial, point), jnp.where(better, trial_gap, gap)
