"""SwAV: Caron et al., https://arxiv.org/abs/2006.09882."""

import flax.linen as nn
import jax.numpy as jnp
from absl import logging

from clr_jax.core.bounds import (
  CountOrZero,
  Dimension,
  Repeats,
  RowsOrZero,
  Temperature,
  WholeEpochs,
)
from clr_jax.core.errors import UserError
from clr_jax.core.types import Group, Method, RunInfo
from clr_jax.losses import clustering
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize, similarity
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugin, Plugins
from clr_jax.skeletons.joint_embedding import check_two_views, commit_batch_stats, joint_embedding
from clr_jax.skeletons.queue_state import check_queue, key_rows


def swav(
  backbone: nn.Module,
  info: RunInfo,
  *,
  num_prototypes: Dimension = 3000,
  temperature: Temperature = 0.1,
  epsilon: Temperature = 0.05,
  sinkhorn_iterations: Repeats = 3,
  freeze_prototypes_steps: CountOrZero = 313,
  queue_length: RowsOrZero = 3840,
  queue_start_epoch: WholeEpochs = 15,
  projector: heads.Recipe = 'byol',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 128,
  per_view_bn: bool = False,
  plugins: Plugins = NONE,
) -> Method:
  """Predicts from each view the balanced prototype assignments of the two large views.

  Local views (multi-crop) only predict. Prototypes are normalized to unit length after the update,
  not before the next step (official): the steps are the same, and checkpoints hold unit rows.

  Args:
    num_prototypes: number of prototypes; 3000 (official).
    temperature: divisor of the similarities; .1 (official).
    epsilon: smoothness of the assignments, .05 (official).
    sinkhorn_iterations: iterations of Sinkhorn-Knopp; 3 (official).
    freeze_prototypes_steps: first steps in which the prototypes are frozen, 313 (official, one
      epoch at batch 4096; 5005 at batch 256).
    queue_length: earlier embeddings of each large view used in the assignments: 3840 (official at
      batch 256, solo-learn); 0 for none (official at batch 4096).
    queue_start_epoch: epoch at which the queue starts; 15 (official at batch 256, solo-learn). It
      is used after the steps that fill it once (official; solo-learn uses it at once).
    projector: recipe of `clr_jax.models.heads`, one hidden layer with BatchNorm (official).
    hidden_dim: width of the hidden layers of the projector; 2048 (official).
    out_dim: length of the embeddings; 128 (official).
    per_view_bn: separate statistics for each view (solo-learn); official code joins views of equal
      size.
    plugins: see `clr_jax.plugins.pipeline`; those that move a pair act on the embeddings of the two
      large views before the prototypes, and change the predictions only: the assignments, local
      views and the queue are of the embeddings as they are.

  Raises:
    UserError: views, a queue or plug-ins that do not fit the method.
  """
  check_two_views('swav', info)
  _check_plugins(plugins)
  pipeline = Pipeline(plugins, 'swav', negatives=False, softmax=False, free_anchor=True)
  if queue_length:
    check_queue('swav', queue_length, info)
  # Filled from step 0: when a queue created at the start epoch would be full, both are equal.
  filling = -(-queue_length // info.batch_size)
  queue_start = queue_start_epoch * info.steps_per_epoch + filling
  _warn_of_unused(info, queue_start if queue_length else 0, freeze_prototypes_steps)

  def moved_scores(out, rng, step):
    z = l2_normalize(out.extra['projector'][:, : info.num_views])
    moved = jnp.stack(pipeline.move_pair(z[:, 0], z[:, 1], rng=rng, step=step), 1)
    scores = similarity(moved, out.extra['prototypes'].astype(moved.dtype))
    return jnp.concatenate([scores, out.online[:, info.num_views :].astype(scores.dtype)], 1)

  def loss(out, state, batch, rng, step):
    del batch
    carry, queue_scores = {}, None
    if queue_length:
      carry = {'keys': key_rows(out.target)}
      queue_scores = similarity(state['queue'], out.extra['prototypes'])
    codes = clustering.assignments(
      out.online[:, : info.num_views],
      queue_scores,
      use_queue=step >= queue_start,
      epsilon=epsilon,
      iterations=sinkhorn_iterations,
    )
    scores = moved_scores(out, rng, step) if plugins else out.online
    pairs = clustering.swav(scores, codes, temperature=temperature)
    return pairs.sum() / (pairs.size - min(pairs.shape)), carry, {}

  def post_update(params, state, carry, step):
    params, state = commit_batch_stats(params, state, carry, step)
    # Normalizing frozen prototypes again could change their last bits.
    params = _map_prototypes(
      lambda w: jnp.where(step < freeze_prototypes_steps, w, l2_normalize(w)), params
    )
    if queue_length:
      kept = state['queue'][:, : queue_length - info.batch_size]
      keys = carry['keys'].astype(kept.dtype)
      state = {**state, 'queue': jnp.concatenate([keys, kept], 1)}
    return params, state

  method = joint_embedding(
    'swav',
    {
      'backbone': backbone,
      'projector': heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim),
      'prototypes': heads.Prototypes(num=num_prototypes),
    },
    loss,
    pairs='cluster',
    per_view=per_view_bn,
    target='projector',
    kept='projector' if plugins else None,
    local_views=True,
    post_update=post_update,
    groups={'prototypes': Group(freeze_steps=freeze_prototypes_steps)},
  )

  def init(rng, batch):
    params, state = method.init(rng, batch)
    if queue_length:
      state = {**state, 'queue': jnp.zeros([info.num_views, queue_length, out_dim])}
    return _map_prototypes(l2_normalize, params), state

  def embed(params, state, batch, rng, step):
    out, carry = method.embed(params, state, batch, rng, step)
    extra = {**out.extra, 'prototypes': params['prototypes']['weight']}
    return out._replace(extra=extra), carry

  return method._replace(init=init, embed=embed)


def _check_plugins(plugins: Plugins) -> None:
  for name, plugin in plugins.items():
    if type(plugin).move_pair is Plugin.move_pair:
      raise UserError(
        f'swav compares embeddings with prototypes and has no scores of pairs: switch '
        f'plugins.{name} off'
      )


def _warn_of_unused(info: RunInfo, queue_start: int, freeze_steps: int) -> None:
  """Warns of a queue or of prototypes that the run is too short for.

  Args:
    info: facts about the run.
    queue_start: first step that uses the queue.
    freeze_steps: first steps in which the prototypes are frozen.
  """
  if queue_start >= info.total_steps:
    logging.warning(
      'swav never uses its queue, which starts at step %d of a run of %d steps: lower '
      'method.queue_start_epoch or method.queue_length',
      queue_start,
      info.total_steps,
    )
  if freeze_steps >= info.total_steps:
    logging.warning(
      'swav never trains its prototypes: they are frozen for %d of %d steps: lower '
      'method.freeze_prototypes_steps',
      freeze_steps,
      info.total_steps,
    )


def _map_prototypes(function, params):
  return {**params, 'prototypes': {'weight': function(params['prototypes']['weight'])}}
