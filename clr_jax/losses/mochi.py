"""MoCHi: synthetic negatives, mixed in feature space from the hardest negatives of each query.

Kalantidis et al., Hard Negative Mixing for Contrastive Learning
(https://arxiv.org/abs/2010.01028). The synthetic vectors are constants: gradient reaches the query
only through its inner products with them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array
from clr_jax.ops.similarity import NEG_INF, at_least_float32, l2_normalize, similarity


class Draws(NamedTuple):
  """Random choices of one step; ranks count from 0 = the hardest negative of the query.

  Attributes:
    first, second: [..., s] int32 ranks of the two negatives of a mixture, never equal.
    alpha: [..., s] weight of `first`, in [0, 1).
    single: [..., s'] int32 ranks of the negatives that are mixed with the query.
    beta: [..., s'] weight of the query, in [0, 0.5): the negative keeps the larger share.
  """

  first: Array
  second: Array
  alpha: Array
  single: Array
  beta: Array


def hardest(query: Array, rows: Array, count: int, *, where: Array | None = None) -> Array:
  """Indices [..., N] int32 of the rows most similar to each query, descending; no gradient.

  Args:
    query: [..., D].
    rows: [K, D].
    count: N <= K.
    where: [..., K] bool, False for rows that must not be chosen (those of the query's own image);
      they come last.

  Raises:
    UserError: N > K.
  """
  if count > len(rows):
    raise UserError(
      f'cannot choose {count} hardest negatives from {len(rows)}: '
      f'set plugins.mochi.num_hard <= {len(rows)}'
    )
  query, rows = jax.lax.stop_gradient((at_least_float32(query), at_least_float32(rows)))
  scores = similarity(query, rows)
  if where is not None:
    scores = jnp.where(where, scores, NEG_INF)
  return jax.lax.top_k(scores, count)[1]


def draw(
  key: Array,
  shape: tuple[int, ...],
  *,
  num_hard: int,
  num_mixed: int,
  num_query_mixed: int,
) -> Draws:
  """Draws independent uniform `Draws` for queries [*shape].

  Args:
    key: random key.
    shape: leading shape of the queries.
    num_hard: N, hardest negatives; (N, s, s') = (1024, 1024, 128) is a setting of the paper.
    num_mixed: s, number of mixtures of two negatives.
    num_query_mixed: s', number of mixtures of the query and a negative.

  Raises:
    UserError: N < 2 with mixtures of two negatives, or N < 1.
  """
  needed = 2 if num_mixed else 1
  if num_hard < needed:
    raise UserError(
      f'mixing needs at least {needed} hard negatives: set plugins.mochi.num_hard >= {needed}, '
      f'not {num_hard}'
    )
  keys = jax.random.split(key, 5)
  mixed, query_mixed = (*shape, num_mixed), (*shape, num_query_mixed)
  first = jax.random.randint(keys[0], mixed, 0, num_hard, jnp.int32)
  # The second rank is 1..N-1 after the first, modulo N: all ordered pairs are equally likely.
  step = jax.random.randint(keys[1], mixed, 1, max(num_hard, 2), jnp.int32)
  return Draws(
    first=first,
    second=(first + step) % num_hard,
    alpha=jax.random.uniform(keys[2], mixed),
    single=jax.random.randint(keys[3], query_mixed, 0, num_hard, jnp.int32),
    beta=jax.random.uniform(keys[4], query_mixed, maxval=0.5),
  )


def mix(query: Array, hard: Array, draws: Draws) -> tuple[Array, Array]:
  """unit(alpha n_a + (1 - alpha) n_b) [..., s, D] and unit(beta q + (1 - beta) n_c) [..., s', D].

  Both are constants, including the query inside the second.

  Args:
    query: [..., D] unit vectors.
    hard: [..., N, D], rows in the order of `hardest`.
    draws: from `draw`.
  """
  query, hard = jax.lax.stop_gradient((at_least_float32(query), at_least_float32(hard)))

  def at(rank):
    return jnp.take_along_axis(hard, rank[..., None], -2)

  alpha, beta = (jnp.asarray(x, hard.dtype)[..., None] for x in (draws.alpha, draws.beta))
  pairs = l2_normalize(alpha * at(draws.first) + (1 - alpha) * at(draws.second))
  with_query = l2_normalize(beta * query[..., None, :] + (1 - beta) * at(draws.single))
  return pairs, with_query
