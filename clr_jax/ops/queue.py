"""Ring buffer of embeddings: the negatives of MoCo, the neighbors of NNCLR.

A queue is {'rows': [..., K, D], 'ptr': [] int32}; leading axes stack queues that advance together.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array
from clr_jax.ops.similarity import l2_normalize

Queue = dict[str, Array]


def init(key: Array, length: int, dim: int, *, leading: tuple[int, ...] = ()) -> Queue:
  """Random unit rows [*leading, length, dim] (MoCo's initialization), pointer 0."""
  rows = l2_normalize(jax.random.normal(key, (*leading, length, dim)))
  return {'rows': rows, 'ptr': jnp.zeros([], jnp.int32)}


def enqueue(queue: Queue, keys: Array, count: Array | None = None) -> Queue:
  """Writes `keys` [..., B, D] to rows (ptr + 0..B-1) mod K, replacing the oldest ones.

  With queue and keys replicated over the devices this is a local write. K need not be a multiple
  of B.

  Args:
    queue: see the module.
    keys: [..., B, D].
    count: [] integer, number of leading keys to write and to advance the pointer by (shapes stay
      fixed if the number of keys depends on data); None = all.

  Raises:
    UserError: B > K, where "the last write wins" would be undefined.
  """
  length, size = queue['rows'].shape[-2], keys.shape[-2]
  if size > length:
    raise UserError(
      f'a queue of {length} rows cannot take {size} keys in one step: '
      f'set method.queue_length >= {size} or lower batch_size'
    )
  count = jnp.asarray(size if count is None else count, jnp.int32)
  position = jnp.arange(size, dtype=jnp.int32)
  index = jnp.where(position < count, (queue['ptr'] + position) % length, length)
  keys = jax.lax.stop_gradient(keys).astype(queue['rows'].dtype)
  rows = queue['rows'].at[..., index, :].set(keys, mode='drop')  # row `length` is outside
  return {'rows': rows, 'ptr': (queue['ptr'] + count) % length}
