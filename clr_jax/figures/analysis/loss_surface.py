"""The loss of a checkpoint on one fixed batch, and on a plane around it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from clr_jax.core.errors import UserError
from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array, Batch, Params, PyTree, State
from clr_jax.data import order
from clr_jax.experiment.build import Experiment, build_experiment
from clr_jax.experiment.schema import switched_off
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.leaves import check_same, describe
from clr_jax.rundir.paths import refuse_lost_data
from clr_jax.rundir.reader import Run

MOST_IMAGES = 256  # images of the batch by default, for a CPU


class Objective(NamedTuple):
  """The training loss around a checkpoint.

  Attributes:
    step: step of the checkpoint.
    params: parameters of the checkpoint, without the online probe.
    loss: params -> scalar, the method's training loss, compiled.
    value_and_grad: params -> (loss, gradient), compiled.
  """

  step: int
  params: Params
  loss: Callable[[Params], Array]
  value_and_grad: Callable[[Params], tuple[Array, Params]]


def open_objective(
  run: Run, *, step: int | None = None, batch_size: int | None = None, seed: int = 0
) -> Objective:
  """Makes the loss of a run's method a function of the parameters only.

  Everything else is fixed: images, their views (the run's), random draws of the loss, and the
  checkpoint's tables, queue, EMA target and step. BatchNorm uses the statistics of the batch, as in
  training.

  Args:
    run: a run with a checkpoint.
    step: step of the checkpoint; None = the newest.
    batch_size: number of training images; None = the run's batch size, at most MOST_IMAGES.
    seed: RNG seed of images, views and the loss; the same for runs on the same data.

  Raises:
    UserError: no such checkpoint, one of another method or model, or an invalid batch size.
  """
  experiment, size = open_experiment(run, batch_size)
  step, params, state = restore_at(run, experiment, step)
  batch = fixed_batch(experiment, size, seed)
  key = jax.random.key(seed)
  at = jnp.asarray(step, jnp.int32)

  def loss(params: Params, state, batch: Batch) -> Array:
    embed_key, loss_key = jax.random.split(key)
    out, _ = experiment.method.embed(params, state, batch, embed_key, at)
    return experiment.method.loss(out, state, batch, loss_key, at)[0]

  # State and batch are arguments, because constants would be compiled into the programs.
  forward, both = host_jit(loss), host_jit(jax.value_and_grad(loss))
  return Objective(
    step, params, lambda p: forward(p, state, batch), lambda p: both(p, state, batch)
  )


def open_experiment(run: Run, batch_size: int | None) -> tuple[Experiment, int]:
  """Builds a run without online probe and telemetry; returns it with the size of the fixed batch.

  Raises:
    UserError: images that are lost, or a batch size that does not fit.
  """
  # Excludes the loss of the online probe, and telemetry, which costs time.
  config = switched_off(run.config, 'probe', 'telemetry')
  refuse_lost_data(config, run.config, run.workdir)
  experiment = build_experiment(config)
  size = min(config.batch_size, MOST_IMAGES) if batch_size is None else batch_size
  if not 2 <= size <= experiment.source.num_examples:
    raise UserError(
      f'batch_size={size} must be at least 2 and at most the {experiment.source.num_examples} '
      f'training images'
    )
  return experiment, size


def restore_at(run: Run, experiment: Experiment, step: int | None) -> tuple[int, Params, State]:
  """Restores (step, params, state) of a checkpoint with any optimizer."""
  abstract = experiment.abstract_state
  tree = {'params': abstract.params, 'state': abstract.state}
  flat = traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep='/')
  leaves = {k: v for k, v in flat.items() if hasattr(v, 'shape')}
  wanted = describe(traverse_util.unflatten_dict(leaves, sep='/'))

  def choose(saved) -> PyTree:
    check_same(
      {k: saved[k] for k in wanted if k in saved}, wanted, f'the checkpoint of {run.directory}'
    )
    return traverse_util.unflatten_dict(leaves, sep='/')

  with Checkpoints(run.workdir, read_only=True) as checkpoints:
    step, restored = checkpoints.restore_leaves(choose, step)
  found = {**flat, **traverse_util.flatten_dict(restored, sep='/')}
  merged = traverse_util.unflatten_dict(found, sep='/')
  return step, merged['params'], merged['state']


def fixed_batch(experiment: Experiment, size: int, seed: int) -> Batch:
  """Draws training images and views by `seed`."""
  source = experiment.source
  index = np.sort(order.shuffled(seed, 0, source.num_examples)[:size])
  images, labels, extent = source.load_whole(index)
  given = [jnp.asarray(x) for x in (images, extent) if x is not None]
  views = host_jit(experiment.views)(jax.random.fold_in(jax.random.key(seed), 1), *given)
  label = None if labels is None else jnp.asarray(labels, jnp.int32)
  return Batch(label=label, index=jnp.asarray(index, jnp.int32), views=views)


# ---------------------------------------------------------------- the plane
def filter_normalized(key: Array, params: Params) -> Params:
  """Draws a random direction whose filters have the norms of those of `params`.

  Gaussian; each filter d of a kernel becomes d ||w|| / ||d||, filters being the slices of the last
  axis (in Flax the outputs of convolutions and of dense layers). Zero for biases and for BatchNorm
  (all arrays of fewer than two axes). Li et al., https://arxiv.org/abs/1712.09913, section 4, and
  their code's 'ignore=biasbn'. The draw of a leaf depends only on (key, its path, its shape), so
  networks of equal shapes get the same direction, each scaled to its own filters.
  """

  def of(path, w: Array) -> Array:
    if w.ndim < 2:
      return jnp.zeros_like(w)
    leaf_key = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
    d = jax.random.normal(leaf_key, w.shape, w.dtype)
    axes = tuple(range(w.ndim - 1))
    length = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))  # noqa: E731
    return d * (length(w) / length(d))

  return jax.tree_util.tree_map_with_path(of, params)


@host_jit
def _moved(params: Params, d1: Params, d2: Params, a: Array, b: Array) -> Params:
  return jax.tree.map(
    lambda w, x, y: w + a.astype(w.dtype) * x + b.astype(w.dtype) * y, params, d1, d2
  )


def surface(
  loss: Callable[[Params], Array], params: Params, offsets: Sequence[float], *, seed: int = 0
) -> np.ndarray:
  """Computes loss(params + a d1 + b d2) [b, a] for all offsets, with `filter_normalized` d1, d2.

  Args:
    loss: compiled loss; it is called from Python for each point, because XLA's loops around
      convolutions are slow on CPUs.
    params: parameters w.
    offsets: offsets in units of the filters' norms.
    seed: RNG seed of the directions.
  """
  d1, d2 = (filter_normalized(key, params) for key in jax.random.split(jax.random.key(seed)))
  at = [jnp.asarray(x, jnp.float32) for x in offsets]
  return np.array([[float(loss(_moved(params, d1, d2, a, b))) for a in at] for b in at])
