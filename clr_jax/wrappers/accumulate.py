"""Large batches in little memory: the network embeds one part of the batch at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from clr_jax.core.bounds import Count
from clr_jax.core.errors import UserError
from clr_jax.core.types import Array, Batch, Carry, Method, Params, RunInfo, State


def accumulate(
  method: Method,
  info: RunInfo,
  *,
  parts: Count = 1,
  unroll: bool | None = None,
) -> Method:
  """Embeds the batch in `parts` passes; the loss sees the embeddings of the whole batch.

  Each pass is recomputed in the backward pass (`jax.checkpoint`), so memory holds the activations
  of one part only. The gradient is that of the whole batch's loss, not a mean over small batches:
  the gradient cache of Gao et al., https://arxiv.org/abs/2101.06983. A step costs one more forward
  pass.

  Image b belongs to part b % parts, so that each part is spread over all devices. BatchNorm
  normalizes each part by its own statistics, like `groups` of `clr_jax.models.norm` with the parts
  as additional groups. Apply this wrapper directly to a method, inside all others.

  Args:
    method: method whose `embed` returns rows of images, new statistics in the carry ('batch_stats',
      'target_stats') and values that do not depend on the batch.
    info: facts about the run.
    parts: number of passes, a divisor of the batch size; 1 returns the method unchanged.
    unroll: True unrolls the loop, so that XLA may run the parts in parallel: fast, but it saves no
      memory. None: unroll on CPUs only, where loops of convolutions are slow.

  Raises:
    UserError: the batch cannot be split into that many parts; when traced, parts of one image for
      a network with BatchNorm.
  """
  if parts < 1 or info.batch_size % parts:
    raise UserError(
      f'accumulate={parts} must divide batch_size={info.batch_size} and be at least 1'
    )
  if parts == 1:
    return method
  size = info.batch_size // parts

  def embed(params: Params, state: State, batch: Batch, rng: Array, step: Array):
    if size == 1 and jax.tree.leaves(state['batch_stats']):
      raise UserError(
        f'accumulate={parts} leaves one image per pass, which BatchNorm cannot normalize: lower it'
      )

    def one(stats: Carry, given: tuple[Batch, Array]):
      found = method.embed(params, _with(state, stats), *given, step)
      return {name: found[1][name] for name in stats}, found

    whole = jax.eval_shape(lambda: method.embed(params, state, batch, rng, step))
    given = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(size, parts, *x.shape[1:]), 0, 1), batch)
    keys = jax.random.split(rng, parts)
    side_by_side = jax.default_backend() == 'cpu' if unroll is None else unroll
    _, found = jax.lax.scan(
      jax.checkpoint(one), _statistics(state), (given, keys), unroll=parts if side_by_side else 1
    )
    return jax.tree.map(_join, whole, found)

  return method._replace(embed=embed)


def _statistics(state: State) -> Carry:
  """State that a pass updates for the next one, by its names in the carry of `embed`."""
  found = {'batch_stats': state['batch_stats']}
  if 'target' in state:
    found['target_stats'] = state['target']['batch_stats']
  return found


def _with(state: State, stats: Carry) -> State:
  state = {**state, 'batch_stats': stats['batch_stats']}
  if 'target_stats' in stats:
    state['target'] = {**state['target'], 'batch_stats': stats['target_stats']}
  return state


def _join(shape: Any, stacked: Array) -> Array:
  """Image rows [parts, size, ...] in the order of the batch; other values from the last pass."""
  if stacked.shape[1:] == shape.shape:
    return stacked[-1]
  return jnp.swapaxes(stacked, 0, 1).reshape(shape.shape)
