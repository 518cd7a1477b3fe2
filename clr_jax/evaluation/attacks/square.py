"""Square attack: random squares, no gradients, so that masked gradients do not help a network."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array, PyTree
from clr_jax.evaluation.attacks.base import (
  Apply,
  Attacked,
  Classifier,
  as_arrays,
  check_budget,
  fold,
  image_keys,
  logits_of,
  verdict,
)
from clr_jax.evaluation.attacks.losses import margin
from clr_jax.evaluation.attacks.norms import spread
from clr_jax.evaluation.attacks.squares import bump, paint, side_of, starts


def square(
  classifier: Classifier,
  images: Any,
  labels: Any,
  *,
  norm: Literal['l2', 'linf'],
  epsilon: float,
  queries: int = 5000,
  share: float = 0.8,
  key: Any,
) -> Attacked:
  """Square Attack of Andriushchenko et al., ECCV 2020.

  In linf, from vertical stripes of +-epsilon, each query paints a random square with +-epsilon per
  channel; in l2, from a grid of bumps, it moves perturbation from one square to another. A query
  is kept where the margin of the logits grows. Stops when no image stands.

  Args:
    images: [B, H, W, C] floats in [0, 1].
    labels: [B] integers.
    queries: 5000, as in AutoAttack.
    share: of the pixels in the first squares; .8 as in AutoAttack.
    key: one, or one for each image.

  Raises:
    UserError: no positive budget, no query, an unknown norm, images without a square of 3 pixels.
  """
  images, labels = as_arrays(images, labels)
  check_budget(norm, epsilon, queries, 'queries')
  if images.ndim != 4 or min(images.shape[1:3]) < 3:
    raise UserError(
      f'square needs images [B, H, W, C] of at least 3 by 3 pixels, not {images.shape}'
    )
  size = images.shape[1:3]
  keys = image_keys(key, len(images))
  point, gap = _begin(*classifier, keys, images, labels, epsilon, norm)
  for query in range(1, queries):
    # Every round trip to the host costs a query's time on a small network; the result is the same.
    if query % 10 == 1 and (gap > 0).all():
      break
    side = side_of(query - 1, queries, share, size, norm)
    shape = bump(side, max(size)) if norm == 'l2' else None
    point, gap = _query(
      *classifier, keys, query, point, gap, images, labels, epsilon, side, shape, norm
    )
  return verdict(*classifier, point, images, labels, norm)


@functools.partial(jax.jit, static_argnames=('apply', 'norm'))
def _begin(
  apply: Apply, params: PyTree, keys: Array, images: Array, labels: Array, epsilon: Any, norm: str
) -> tuple[Array, Array]:
  point = starts(fold(keys, 0), images, epsilon, norm)
  return point, margin(logits_of(apply, params, point), labels)


@functools.partial(jax.jit, static_argnames=('apply', 'norm'))
def _query(
  apply: Apply,
  params: PyTree,
  keys: Array,
  query: Any,
  point: Array,
  gap: Array,
  images: Array,
  labels: Array,
  epsilon: Any,
  side: Any,
  shape: Any,
  norm: str,
) -> tuple[Array, Array]:
  keys = fold(keys, query)
  trial = paint(keys, point, images, epsilon, side, shape, norm)
  trial_gap = margin(logits_of(apply, params, trial), labels)
  better = (gap <= 0) & (trial_gap > gap)  # what is broken stays
  return jnp.where(spread(better, point), trial, point), jnp.where(better, trial_gap, gap)
