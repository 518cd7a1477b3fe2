"""REAL: selection of the keys that enter the queue and of the queue rows used as negatives.

The SogCLR report describes retrieval in one sentence; `as_published` follows its code. All shapes
are fixed: a selection is an order of all keys and the number of selected ones.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.losses.scores import Scores
from clr_jax.ops.similarity import similarity

Distance = Literal['euclidean', 'cosine', 'manhattan']


class Selection(NamedTuple):
  """Keys selected by retrieval.

  Attributes:
    order: [B] int32, a permutation of the keys with the selected ones in front.
    count: [] int32, number of selected keys.
    radius: [], radius of the next selection.
  """

  order: Array
  count: Array
  radius: Array


def distances(query: Array, key: Array, distance: Distance) -> Array:
  """Distances [Q, K] of unit rows [Q, D] and [K, D]: 'cosine' is 1 - cosine."""
  if distance == 'manhattan':
    return jnp.sum(jnp.abs(query[:, None] - key[None]), -1)
  cosine = similarity(query, key)
  return 1 - cosine if distance == 'cosine' else jnp.sqrt(jnp.maximum(2 - 2 * cosine, 0.0))


def select_in_radius(
  query: Array,
  key: Array,
  radius: Array,
  *,
  distance: Distance = 'euclidean',
  as_published: bool = False,
) -> Selection:
  """Selects keys within 2 radius of a query of another image; all keys if there are none.

  Selected keys are ordered by the first query that is near them, then by row. The new radius is
  half the mean distance: a key is selected if some query is nearer than the average.

  Args:
    query, key: [B, D] unit rows; row i of both is the same image.
    radius: [].
    distance: 'euclidean' (the report's code), 'cosine' or 'manhattan' (see `distances`).
    as_published: True also lets a query select its own image's key (usually the nearest one) and
      divides the sum of all distances by B D instead of their number.
  """
  size, dim = query.shape
  between = distances(query, key, distance)
  counts = jnp.full([size, size], as_published) | ~jnp.eye(size, dtype=bool)
  near = (between <= 2 * radius) & counts
  # `size` where no query is near; if that is so for all, the stable sort keeps the row order.
  first = jnp.where(near.any(0), jnp.argmax(near, 0), size)
  selected = jnp.sum(first < size)
  divisor = size * dim if as_published else size * (size - 1)
  return Selection(
    order=jnp.argsort(first, stable=True).astype(jnp.int32),
    count=jnp.where(selected > 0, selected, size).astype(jnp.int32),
    radius=(jnp.sum(between, where=counts) / divisor / 2).astype(radius.dtype),
  )


def select_hardest(
  query: Array, key: Array, fraction: float, *, distance: Distance = 'euclidean'
) -> Array:
  """Rows [ceil(fraction B)], ascending, of the keys nearest to a query of another image.

  Args:
    query, key: [B, D] unit rows, B >= 2; row i of both is the same image.
    fraction: in (0, 1].
    distance: see `distances`; 'euclidean' and 'cosine' select the same keys.
  """
  size = len(query)
  # The cosine orders unit rows as both distances do.
  near = -distances(query, key, distance) if distance == 'manhattan' else similarity(query, key)
  scores = jnp.where(jnp.eye(size, dtype=bool), -jnp.inf, near)
  hardest = jnp.argsort(-jnp.max(scores, 0), stable=True)
  return jnp.sort(hardest[: math.ceil(fraction * size)])


def hardest_negatives(scores: Scores, count: int) -> Scores:
  """Keeps only the `count` <= K most similar of each anchor's negatives [..., K]."""
  offered = jnp.where(scores.mask, jax.lax.stop_gradient(scores.negative), -jnp.inf)
  _, column = jax.lax.top_k(offered, count)
  return Scores(
    scores.positive,
    jnp.take_along_axis(scores.negative, column, -1),
    None if scores.where is None else jnp.take_along_axis(scores.where, column, -1),
  )
