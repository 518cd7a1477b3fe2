"""Scores and gradients of kept checkpoints on one fixed batch, without telemetry in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from clr_jax.core.activity import activity
from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array, Batch, Method, Params, State
from clr_jax.figures.analysis.loss_surface import fixed_batch, open_experiment, restore_at
from clr_jax.ops.gradient_statistics import tensor_norms
from clr_jax.rundir.reader import Run
from clr_jax.wrappers.telemetry import of_embeddings, of_scores

_EDGES = np.array([-1.0, 1.0])  # of the histograms, which are not used
Measure = Callable[[Params, State, Batch, Array], tuple[dict[str, Array], dict[str, Array]]]


class Measured(NamedTuple):
  """Measurements of a checkpoint.

  Attributes:
    step: step of the checkpoint.
    scores: {metric of telemetry, without its prefix, or 'loss': value}.
    norms: {layer: L2 norm of the gradient of its parameters}.
  """

  step: int
  scores: dict[str, float]
  norms: dict[str, float]


def measure_checkpoints(
  run: Run, steps: Sequence[int], *, batch_size: int | None = None, seed: int = 0
) -> list[Measured]:
  """Measures the loss, the scores and the gradient of each checkpoint on the same batch.

  Images, views and random draws are fixed; BatchNorm uses the statistics of the batch, as in
  training; queue, tables and EMA target are the checkpoint's.

  Args:
    run: run with checkpoints.
    steps: steps of the checkpoints.
    batch_size: number of training images; None = the run's batch size, at most 256.
    seed: RNG seed of images, views and the loss.

  Raises:
    UserError: see `open_experiment`, or no such checkpoint.
  """
  experiment, size = open_experiment(run, batch_size)
  batch = fixed_batch(experiment, size, seed)
  measure = host_jit(_measure_of(experiment.method, jax.random.key(seed)))
  found = []
  for step in steps:
    with activity(f'{run.name}, step {step:,}: scores and gradients'):
      _, params, state = restore_at(run, experiment, step)
      both = measure(params, state, batch, jnp.asarray(step, jnp.int32))
      scores, norms = ({k: float(v) for k, v in part.items()} for part in jax.device_get(both))
    found.append(Measured(step, scores, norms))
  return found


def _measure_of(method: Method, key: Array) -> Measure:
  """Function of parameters, state, batch and step that returns scores and norms."""

  def measure(params: Params, state: State, batch: Batch, step: Array):
    embed_key, loss_key = jax.random.split(key)

    def loss(params: Params):
      out, _ = method.embed(params, state, batch, embed_key, step)
      return method.loss(out, state, batch, loss_key, step)[0], out

    (value, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
    found = {'loss': value, **of_embeddings(out)}
    if method.scores is not None:
      found |= of_scores(method.scores(out, state, batch, loss_key, step), _EDGES)
    return {k: v for k, v in found.items() if not v.ndim}, layer_norms(grads)

  return measure


def layer_norms(grads: Params) -> dict[str, Array]:
  """{layer: L2 norm over its parameters}, of layers with a kernel (convolutional and dense)."""
  layers: dict[str, list[Array]] = {}
  kernels = set()
  flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(grads)
  for path, gradient in flat.items():
    layer = '/'.join(path[:-1])
    layers.setdefault(layer, []).append(tensor_norms(gradient))
    if gradient.ndim > 1:
      kernels.add(layer)
  return {
    layer: jnp.sqrt(sum((norm**2 for norm in norms), jnp.zeros(())))
    for layer, norms in layers.items()
    if layer in kernels
  }
