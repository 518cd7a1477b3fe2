"""The jitted call that the loop makes: one or many training steps."""

from __future__ import annotations

from typing import Any

import jax

from clr_jax.core.config_tree import Config
from clr_jax.core.types import Metrics, TrainState
from clr_jax.experiment.build import Experiment

STREAMED_BLOCK_BYTES = 256 * 2**20


def make_dispatch(experiment: Experiment, pipeline, size: int):
  """(state, resident, block) -> (state, metrics [count]): `count` training steps in one call.

  The CPU takes one step a call: XLA's control flow around convolutions is slow there.
  """
  step_fn = experiment.step_fn

  def one(state: TrainState, resident: Any, row: Any) -> tuple[TrainState, Metrics]:
    return step_fn(state, pipeline.batch(resident, row))

  def many(state: TrainState, resident: Any, block: Any) -> tuple[TrainState, Metrics]:
    if size == 1 or jax.tree.leaves(block)[0].shape[0] == 1:
      row = jax.tree.map(lambda x: x[0], block)
      state, step_metrics = one(state, resident, row)
      return state, jax.tree.map(lambda x: x[None], step_metrics)
    return jax.lax.scan(lambda state, row: one(state, resident, row), state, block)

  shardings = jax.tree.map(lambda x: x.sharding, experiment.abstract_state())
  return jax.jit(many, donate_argnums=0, out_shardings=(shardings, None))


def steps_per_call(config: Config) -> int:
  """Steps in one dispatch: as configured, else 1 on CPUs and 25 elsewhere."""
  if config.steps_per_call is not None:
    return config.steps_per_call
  return 1 if jax.default_backend() == 'cpu' else 25
