"""Common code of methods with a queue: checks at construction, the state, the `post_update`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from absl import logging

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array, Carry, Params, RunInfo, State
from clr_jax.ops import queue as ring
from clr_jax.ops.random import Stream, stream
from clr_jax.ops.similarity import l2_normalize
from clr_jax.skeletons.joint_embedding import commit_batch_stats


def check_queue(name: str, length: int, info: RunInfo, *, keys_per_image: int = 1) -> None:
  """Rejects a queue shorter than a step's keys; warns about one longer than the data set."""
  count = keys_per_image * info.batch_size
  if length < count:
    raise UserError(
      f'{name} writes {count} keys a step into a queue of {length}: '
      f'set method.queue_length >= {count} or lower batch_size'
    )
  if length > info.num_examples:
    logging.warning(
      '%s: a queue of %d keys is longer than the data set (%d images), so it contains older keys '
      "of the batch's own images: set method.queue_length <= %d to avoid this",
      name,
      length,
      info.num_examples,
      info.num_examples,
    )


def init_queue(rng: Array, length: int, dim: int, *, leading: tuple[int, ...] = ()) -> State:
  """Initial state of a queue; `rng` is the key passed to `Method.init`."""
  return {'queue': ring.init(stream(rng, Stream.QUEUE), length, dim, leading=leading)}


def key_rows(target: Array) -> Array:
  """Converts embeddings [B, V, D] to detached unit rows [V, B, D], the order of enqueueing."""
  return jnp.swapaxes(l2_normalize(jax.lax.stop_gradient(target)), 0, 1)


def enqueue_keys(params: Params, state: State, carry: Carry, step: Array):
  """`PostUpdateFn`: updates the statistics and enqueues carry['keys'] ([..., B, D], unit rows)."""
  params, state = commit_batch_stats(params, state, carry, step)
  return params, {**state, 'queue': ring.enqueue(state['queue'], carry['keys'])}
