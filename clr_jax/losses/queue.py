"""MoCo's loss and NNCLR's neighbors: comparisons with a queue of earlier embeddings.

Queues are [K, D] unit rows from before the step; neither they nor the keys carry gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.losses.scores import queue_scores
from clr_jax.ops.similarity import at_least_float32, l2_normalize, similarity


def queue_logits(
  query: Array,
  key: Array,
  queue: Array,
  *,
  temperature: float | Array = 0.07,
  normalize: bool = True,
) -> Array:
  """[<query, key>, <query, queue rows>] / temperature, [B, 1 + K]; class 0 is the positive.

  MoCo (https://arxiv.org/abs/1911.05722, algorithm 1).

  Args:
    query: [B, D].
    key: [B, D], detached here.
    queue: [K, D].
    temperature: 0.07 (MoCo v1), 0.2 (v2).
    normalize: False if query and key are unit vectors already.

  Example:
    >>> z = jnp.eye(2)
    >>> queue_logits(z, z, jnp.array([[0.0, 1.0]]), temperature=0.5).tolist()
    [[2.0, 0.0], [2.0, 2.0]]
  """
  query, key = (l2_normalize(query), l2_normalize(key)) if normalize else (query, key)
  key, queue = jax.lax.stop_gradient((key, queue))
  positive, negative, _ = queue_scores(query, key, queue)
  return jnp.concatenate([positive[:, None], negative], -1) / temperature


def queue_infonce(
  query: Array,
  key: Array,
  queue: Array,
  *,
  temperature: float | Array = 0.07,
  normalize: bool = True,
) -> Array:
  """Cross-entropy of `queue_logits` to class 0, per row [B]; arguments as there.

  Example:
    >>> z = jnp.eye(2)
    >>> print(queue_infonce(z, z, jnp.array([[0.0, 1.0]])).round(2))  # the second is in the queue
    [0.   0.69]
  """
  logits = queue_logits(query, key, queue, temperature=temperature, normalize=normalize)
  return -jax.nn.log_softmax(logits)[:, 0]


def nearest(z: Array, queue: Array) -> Array:
  """Index [B] of the queue row with the largest inner product with z [B, D]; ties: the first.

  Example:
    >>> nearest(jnp.eye(2), jnp.array([[0.0, 1.0], [1.0, 0.0]])).tolist()
    [1, 0]
  """
  return jnp.argmax(
    jax.lax.stop_gradient(similarity(at_least_float32(z), at_least_float32(queue))), -1
  )
