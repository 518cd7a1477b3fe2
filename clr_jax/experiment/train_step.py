"""The one train step: views, embeddings, loss, optimizer, state. No method has its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clr_jax.core.types import Array, Batch, Method, Metrics, Params, PyTree, TrainState, ViewFn
from clr_jax.ops import sharding
from clr_jax.ops.gradient_statistics import group_norms
from clr_jax.ops.similarity import unit
from clr_jax.wrappers import telemetry as _telemetry

StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def init_state(
  key: Array, batch: Batch, method: Method, views: ViewFn, tx: optax.GradientTransformation
) -> TrainState:
  """Step 0. Only the shapes of `batch` matter; trace it with `jax.eval_shape` or `jax.jit`."""
  init_key, view_key, key = jax.random.split(key, 3)
  params, state = method.init(init_key, batch._replace(views=views(view_key, batch.image)))
  return TrainState(jnp.zeros([], jnp.int32), params, state, tx.init(params), key)


class StepParts(NamedTuple):
  """The train step in the order of its parts, which `clr-jax bench` also times one by one.

  Attributes:
    make_views: (state, batch with images) -> batch with views.
    gradients: (state, batch with views) -> (gradients, (carry, metrics)).
    update: (state, batch with views, gradients, carry, metrics) -> (state, metrics).
  """

  make_views: Callable[..., Batch]
  gradients: Callable[..., Any]
  update: Callable[..., tuple[TrainState, Metrics]]


def make_step_parts(
  method: Method,
  views: ViewFn,
  tx: optax.GradientTransformationExtraArgs,
  *,
  mesh: Mesh | None = None,
  shard_optimizer: bool = False,
) -> StepParts:
  """The parts of `make_train_step`, with the same arguments."""

  def whole(tree: PyTree) -> PyTree:
    if mesh is None:
      return tree
    return jax.lax.with_sharding_constraint(tree, sharding.replicated(mesh))

  def split(tree: PyTree) -> PyTree:
    if mesh is None or not shard_optimizer:
      return tree
    return jax.lax.with_sharding_constraint(tree, sharding.by_largest_axis(mesh, tree))

  def on_rows(batch: Batch) -> Batch:
    # Left to itself XLA may gather the batch and let every device compute all of it.
    if mesh is None:
      return batch
    return jax.lax.with_sharding_constraint(batch, sharding.by_rows(mesh))

  def keys(state: TrainState) -> Array:
    return jax.random.split(jax.random.fold_in(state.key, state.step), 3)

  def make_views(state: TrainState, batch: Batch) -> Batch:
    batch = on_rows(batch)
    return on_rows(batch._replace(image=None, views=views(keys(state)[0], batch.image)))

  def grad_of(state: TrainState, batch: Batch):
    _, embed_key, loss_key = keys(state)

    def objective(params):
      out, carry = method.embed(params, state.state, batch, embed_key, state.step)
      loss, loss_carry, metrics = method.loss(out, state.state, batch, loss_key, state.step)
      metrics = {'loss': loss, **metrics, 'feature_std': feature_std(out.h)}
      return loss, ({**carry, **loss_carry}, metrics)

    return jax.grad(objective, has_aux=True)

  def gradients(state: TrainState, batch: Batch):
    return grad_of(state, batch)(whole(state.params))

  def update(state: TrainState, batch: Batch, grads, carry, metrics) -> tuple[TrainState, Metrics]:
    # Whole on both sides of a pass: split weights or gradients would split its convolutions.
    updates, opt_state = tx.update(
      split(whole(grads)),
      state.opt_state,
      state.params,
      grad_fn=lambda params, _: split(whole(grad_of(state, batch)(whole(params))[0])),
    )
    opt_state = split(opt_state)
    params = cast(Params, whole(optax.apply_updates(state.params, updates)))
    carry = whole(carry)
    params, new_state = method.post_update(params, state.state, carry, state.step)
    metrics = {**metrics, 'update_norm': optax.tree.norm(updates)}
    if _telemetry.STEPS in metrics:
      metrics |= _telemetry.only_if(
        metrics[_telemetry.STEPS] > 0,
        lambda: {f'{_telemetry.PREFIX}grad_norm/{k}': v for k, v in group_norms(grads).items()},
      )
    return TrainState(state.step + 1, params, new_state, opt_state, state.key), metrics

  # Scopes: op_shares.py tells by them what the time of the whole program goes to.
  return StepParts(
    jax.named_scope('augmentation')(make_views), gradients, jax.named_scope('optimizer')(update)
  )


def make_train_step(
  method: Method,
  views: ViewFn,
  tx: optax.GradientTransformationExtraArgs,
  *,
  mesh: Mesh | None = None,
  shard_optimizer: bool = False,
) -> StepFn:
  """(state, batch) -> (state, metrics), to be jitted by the caller with the state donated.

  Everything random is a function of (state.key, state.step). The carry is committed once, from the
  unperturbed pass: an optimizer that asks for another gradient (SAM) reads the same old state.

  Args:
    mesh: when given, the batch and its views are split over it, and what a step hands to
      `post_update` is replicated over it, so that queues and tables are written by local operations
      on every device.
    shard_optimizer: with a mesh, every device computes and keeps only its part of the optimizer's
      state (`sharding.by_largest_axis`), then gathers the new parameters.
  """
  parts = make_step_parts(method, views, tx, mesh=mesh, shard_optimizer=shard_optimizer)

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    batch = parts.make_views(state, batch)
    grads, (carry, metrics) = parts.gradients(state, batch)
    return parts.update(state, batch, grads, carry, metrics)

  return step


def feature_std(h: Array) -> Array:
  """Collapse monitor: sqrt(F) * mean over features of the standard deviation of unit(h) over rows.

  About 1 for features that fill the sphere, 0 when all images map to one point
  (SimSiam, https://arxiv.org/abs/2011.10566, figure 2).
  """
  rows = unit(jax.lax.stop_gradient(h)).reshape(-1, h.shape[-1])
  return jnp.std(rows, 0).mean() * jnp.sqrt(rows.shape[-1])
