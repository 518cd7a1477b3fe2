"""The train step of all methods: views, embeddings, loss, optimizer, state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clr_jax.core.types import (
  Array,
  Batch,
  Carry,
  Method,
  Metrics,
  Params,
  PyTree,
  TrainState,
  ViewFn,
)
from clr_jax.ops import many_arrays, sharding
from clr_jax.ops.similarity import l2_normalize

StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def init_state(
  key: Array, batch: Batch, method: Method, views: ViewFn, tx: optax.GradientTransformation
) -> TrainState:
  """Makes the state of step 0 from the shapes of `batch`, under `jax.eval_shape` or `jax.jit`."""
  init_key, view_key, key = jax.random.split(key, 3)
  params, state = method.init(init_key, batch._replace(views=_made(views, view_key, batch)))
  return TrainState(jnp.zeros([], jnp.int32), params, state, tx.init(params), key)


def make_train_step(
  method: Method,
  views: ViewFn,
  tx: optax.GradientTransformationExtraArgs,
  *,
  mesh: Mesh | None = None,
  shard_optimizer: bool = False,
) -> StepFn:
  """Makes the train step (state, batch) -> (state, metrics), to be jitted with a donated state.

  All randomness is a function of (state.key, state.step). The carry of the unperturbed pass updates
  the state once: an optimizer that evaluates another gradient (SAM) reads the same old state.

  Args:
    mesh: mesh to split the batch and its views over; the inputs of `post_update` are replicated, so
      that each device writes queues and tables by local operations. None = no constraints.
    shard_optimizer: with a mesh, each device computes and stores only its part of the optimizer
      state (`sharding.by_largest_axis`), then gathers the new parameters.
  """
  on_rows, whole, split = _placements(mesh, shard_optimizer)
  joined = mesh is not None and joins_arrays(mesh, shard_optimizer=shard_optimizer)
  on_tpu = mesh is not None and sharding.on_tpu(mesh) and not shard_optimizer

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    view_key, embed_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)

    # bench/profile.py and bench/plan attribute operations to these scope names.
    with jax.named_scope('augmentation'):
      batch = on_rows(batch)
      batch = on_rows(batch._replace(image=None, extent=None, views=_made(views, view_key, batch)))

    def objective(params: Params) -> tuple[Array, tuple[Carry, Metrics]]:
      params = many_arrays.side_by_side(params) if joined else params
      out, carry = method.embed(params, state.state, batch, embed_key, state.step)
      with jax.named_scope('loss'):
        loss, loss_carry, metrics = method.loss(out, state.state, batch, loss_key, state.step)
        metrics = {'loss': loss, **metrics, 'feature_std': feature_std(out.h)}
      return loss, ({**carry, **loss_carry}, metrics)

    gradient = jax.grad(objective, has_aux=True)
    grads, (carry, metrics) = gradient(whole(state.params))

    if joined:
      grads = many_arrays.row_major(grads)

    with jax.named_scope('optimizer'):
      # Replicated before and after a pass: sharded weights or gradients would shard convolutions.
      updates, opt_state = tx.update(
        split(whole(grads)),
        state.opt_state,
        state.params,
        grad_fn=lambda params, _: split(whole(gradient(whole(params))[0])),
      )
      opt_state = split(opt_state)
      params = many_arrays.apply_updates(state.params, updates, joined=joined or on_tpu)
      if on_tpu:
        # The norm of the change that was made: XLA computes momentum, parameters and this norm in
        # one pass over an array; with the norm of `updates` it takes two.
        updates = jax.tree.map(jnp.subtract, params, state.params)
      params = cast(Params, whole(params))
      with jax.named_scope('state'):
        params, new_state = method.post_update(params, state.state, whole(carry), state.step)
      metrics = {**metrics, 'update_norm': many_arrays.global_norm(updates, joined=joined)}
      if method.gradient_metrics is not None:
        metrics |= method.gradient_metrics(grads, state.step)
    return TrainState(state.step + 1, params, new_state, opt_state, state.key), metrics

  return step


def _made(views: ViewFn, key: Array, batch: Batch) -> Mapping[str, Array]:
  given = (batch.image,) if batch.extent is None else (batch.image, batch.extent)
  return views(key, *given)


def joins_arrays(mesh: Mesh, *, shard_optimizer: bool) -> bool:
  """True if many parameters are updated in few kernels, see `ops.many_arrays`."""
  return sharding.launches_matter(mesh) and not shard_optimizer


def _placements(
  mesh: Mesh | None, shard_optimizer: bool
) -> tuple[Callable[[Batch], Batch], Callable[[PyTree], PyTree], Callable[[PyTree], PyTree]]:
  """Sharding constraints for batches (rows split over the mesh), for replicated trees, and for the
  optimizer. Without a mesh they return their argument.
  """
  if mesh is None:
    return (lambda batch: batch), (lambda tree: tree), (lambda tree: tree)
  constrain = jax.lax.with_sharding_constraint

  def on_rows(batch: Batch) -> Batch:
    # Without constraints XLA may gather the batch and compute all of it on every device.
    return constrain(batch, sharding.by_rows(mesh))

  def whole(tree: PyTree) -> PyTree:
    return constrain(tree, sharding.replicated(mesh))

  def split(tree: PyTree) -> PyTree:
    return constrain(tree, sharding.by_largest_axis(mesh, tree)) if shard_optimizer else tree

  return on_rows, whole, split


def feature_std(h: Array) -> Array:
  """Collapse monitor: sqrt(F) * mean over features of the standard deviation of unit rows h.

  About 1 for features spread over the sphere, 0 if all images map to one point
  (SimSiam, https://arxiv.org/abs/2011.10566, figure 2).
  """
  rows = l2_normalize(jax.lax.stop_gradient(h)).reshape(-1, h.shape[-1])
  return jnp.std(rows, 0).mean() * jnp.sqrt(rows.shape[-1])
