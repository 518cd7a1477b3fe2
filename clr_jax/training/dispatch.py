"""The jitted call of the loop, with one or many training steps."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from clr_jax.core.programs import HostProgram, host_jit
from clr_jax.core.types import Array, Metrics, TrainState
from clr_jax.data.pipeline import Block, Pipeline
from clr_jax.experiment.build import Experiment

STREAMED_BLOCK_BYTES = 256 * 2**20


def make_dispatch(
  experiment: Experiment, pipeline: Pipeline | type[Pipeline], size: int
) -> HostProgram:
  """Makes a call of `count` steps: (state, resident, block) -> (state, metrics [count, ...]).

  Args:
    experiment: experiment with the train step.
    pipeline: pipeline whose `resident` and `blocks` are the arguments of the calls; the class
      itself if there are only shapes.
    size: largest number of steps in a block. 1 avoids XLA's control flow, which slows convolutions
      down on CPUs.
  """
  step_fn = experiment.step_fn

  def one(state: TrainState, resident: Any, row: dict[str, Array]) -> tuple[TrainState, Metrics]:
    return step_fn(state, pipeline.batch(resident, row))

  def many(state: TrainState, resident: Any, block: Block) -> tuple[TrainState, Metrics]:
    if size == 1 or jax.tree.leaves(block)[0].shape[0] == 1:
      state, metrics = one(state, resident, jax.tree.map(lambda x: x[0], block))
      return state, jax.tree.map(lambda x: jnp.expand_dims(x, 0), metrics)
    return jax.lax.scan(lambda state, row: one(state, resident, row), state, block)

  return host_jit(many, donate_argnums=0, out_shardings=(experiment.shardings, None))


def steps_per_call(experiment: Experiment, pipeline: Pipeline) -> int:
  """Steps per dispatch: as configured, else 1 on CPUs and 25 elsewhere.

  A block of streamed images holds the images of all its steps, and several blocks are in memory:
  steps are reduced if a block exceeds STREAMED_BLOCK_BYTES.
  """
  size = experiment.config.steps_per_call
  if size is None:
    size = 1 if jax.default_backend() == 'cpu' else 25
  if pipeline.mode == 'streamed':
    step_bytes = pipeline.batch_size * math.prod(experiment.source.stored_shape)
    size = max(1, min(size, STREAMED_BLOCK_BYTES // step_bytes))
  return size
