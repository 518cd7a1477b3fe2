"""Time of the views alone and of the loss alone, outside of the training step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array, Batch, Out, PyTree, TrainState
from clr_jax.experiment.build import Experiment, example_batch
from clr_jax.ops import sharding


def measure(experiment: Experiment, state: TrainState, *, repeats: int) -> dict[str, Any]:
  """Times the augmentation of a batch, and the loss of its embeddings with their gradient.

  Pixels and embeddings are random. In a step XLA fuses both with what surrounds them, so that the
  two times do not add up to shares of a step.

  Args:
    experiment: experiment on the devices of this process.
    state: a state of its method.
    repeats: number of timed calls of each program.

  Returns:
    {'views': number of a batch, 'views_per_second', 'embeddings': [B, V, D], 'loss_seconds'};
    medians.
  """
  rows, whole = sharding.by_rows(experiment.mesh), sharding.replicated(experiment.mesh)
  key = jax.device_put(jax.random.key(0), whole)
  batch = jax.device_put(_random_batch(experiment), rows)
  views = host_jit(lambda key, batch: _made(experiment, key, batch), out_shardings=rows)
  shapes = jax.eval_shape(lambda: _embedded(experiment, state, key, batch))
  out = jax.device_put(_random_like(shapes), rows)
  batch_of_loss = batch._replace(image=None, extent=None, views=views(key, batch))

  def loss(online: Array, out: Out, state: TrainState, batch: Batch, key: Array) -> Array:
    out = out._replace(online=online)
    return experiment.method.loss(out, state.state, batch, key, state.step)[0]

  gradient = host_jit(jax.value_and_grad(loss))
  made = jax.tree.leaves(batch_of_loss.views)
  count = sum(view.shape[0] * view.shape[1] for view in made)
  seconds = _median_seconds(lambda: views(key, batch), repeats)
  return {
    'views': count,
    'views_per_second': count / seconds,
    'embeddings': list(out.online.shape),
    'loss_seconds': _median_seconds(
      lambda: gradient(out.online, out, state, batch_of_loss, key), repeats
    ),
  }


def _random_batch(experiment: Experiment) -> Batch:
  batch = example_batch(experiment.source, experiment.info.batch_size)
  image = jax.random.bits(jax.random.key(1), batch.image.shape, batch.image.dtype)
  if batch.extent is None:
    return batch._replace(image=image)
  return batch._replace(image=image, extent=jnp.full_like(batch.extent, image.shape[1]))


def _made(experiment: Experiment, key: Array, batch: Batch) -> PyTree:
  given = (batch.image,) if batch.extent is None else (batch.image, batch.extent)
  return experiment.views(key, *given)


def _embedded(experiment: Experiment, state: TrainState, key: Array, batch: Batch) -> Out:
  batch = batch._replace(image=None, extent=None, views=_made(experiment, key, batch))
  return experiment.method.embed(state.params, state.state, batch, key, state.step)[0]


def _random_like(shapes: PyTree) -> PyTree:
  leaves, structure = jax.tree.flatten(shapes)
  keys = jax.random.split(jax.random.key(2), max(len(leaves), 1))
  return structure.unflatten(
    [
      jax.random.normal(key, x.shape, x.dtype)
      if jnp.issubdtype(x.dtype, jnp.floating)
      else jnp.zeros(x.shape, x.dtype)
      for key, x in zip(keys, leaves, strict=False)
    ]
  )


def _median_seconds(run: Callable[[], Any], repeats: int) -> float:
  jax.block_until_ready(run())  # compiles
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - start)
  return statistics.median(times)
