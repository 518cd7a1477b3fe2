"""The skeleton of methods that embed all views with one network and compare the embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax

from clr_jax.core.bounds import Rows
from clr_jax.core.errors import UserError
from clr_jax.core.options import NO_EFFECT_ON_TRAINING
from clr_jax.core.types import (
  Array,
  Batch,
  Carry,
  Group,
  Method,
  Out,
  Pairs,
  Params,
  RunInfo,
  ScoresFn,
  State,
)
from clr_jax.losses.contrastive import pair_sets
from clr_jax.models.siamese import Chain

BlockSize = Annotated[Rows | None, NO_EFFECT_ON_TRAINING]
"""The option of a method whose loss `check_block_size` checks."""


def check_two_views(name: str, info: RunInfo) -> None:
  """UserError unless there are two views, and other images to compare them with."""
  if info.num_views != 2:
    raise UserError(f'{name} compares two views: set augment.num_views=2, not {info.num_views}')
  if info.batch_size < 2:
    raise UserError(f'{name} needs other images in the batch: set batch_size >= 2')


def check_block_size(
  name: str, block_size: int | None, info: RunInfo, active: Sequence[str] = ()
) -> None:
  """UserError unless the rows of a batch, all views of its images, are whole blocks.

  Args:
    active: plug-ins that act on all scores at once.
  """
  if block_size is not None and active:
    raise UserError(
      f'{name}: plug-ins ({", ".join(active)}) need all scores at once: leave method.block_size out'
    )
  rows = info.batch_size * info.num_views
  if block_size is not None and rows % block_size:
    raise UserError(
      f'{name}: method.block_size={block_size} must divide the {rows} rows of a batch '
      f'(batch_size x augment.num_views)'
    )


def commit_batch_stats(params: Params, state: State, carry: Carry, step: Array):
  """The least a `post_update` does: the new BatchNorm statistics become the state's."""
  del step
  return params, {**state, 'batch_stats': carry['batch_stats']}


def embed_mixed(
  network: Chain, params: Params, batch_stats: State, batch: Batch, *, per_view: bool
) -> tuple[dict[str, Array], State]:
  """For `Out.extra`: {'mixed': [B, 1, D]} of batch.views['mixed'], if there, and new statistics.

  D is that of the last module. A pass of its own, as in the official Un-Mix.
  """
  if (mixed := batch.views.get('mixed')) is None:
    return {}, batch_stats
  outputs, batch_stats = network.apply_views(params, batch_stats, mixed, per_view=per_view)
  return {'mixed': outputs[list(network.modules)[-1]]}, batch_stats


def joint_embedding(
  name: str,
  chain: Mapping[str, nn.Module],
  loss: Callable,
  pairs: Pairs,
  *,
  independent: bool = False,
  per_view: bool = True,
  target: str | None = None,
  local_views: bool = False,
  init_state: Callable[[], State] = dict,
  post_update: Callable = commit_batch_stats,
  groups: Mapping[str, Group] | None = None,
) -> Method:
  """A method without a second network: `Out.online` = output of the last module of `chain`.

  Out.extra = {'stages': pooled stages of the backbone, of the global views} and `embed_mixed`.

  Args:
    name: of the method, for messages.
    chain: {'backbone': ..., 'projector': ...} in order; the first output is the feature h.
    loss: a `LossFn`.
    pairs, independent: facts about `loss`, see `clr_jax.core.types.Method`.
    per_view: BatchNorm statistics of each view apart (see `Chain.apply_views`).
    target: module whose output, without gradient, is `Out.target` and, instead of the last one's,
      the `z` of `represent`: the projector before a predictor.
    local_views: the network embeds batch.views['local'] too, if there; last in Out.online.
    init_state: state beside the statistics, such as per-example tables.
    post_update: a `PostUpdateFn` that also keeps the statistics.
    groups: optimizer groups by first key of params.
  """
  network = Chain(chain)
  first, last = next(iter(chain)), list(chain)[-1]

  def init(rng: Array, batch: Batch):
    params, batch_stats = network.init(rng, batch.views['global'][:, 0])
    return params, {'batch_stats': batch_stats, **init_state()}

  def embed(params: Params, state: State, batch: Batch, rng: Array, step: Array):
    del rng, step
    outputs, batch_stats = network.apply_views(
      params, state['batch_stats'], batch.views['global'], per_view=per_view, stages=True
    )
    online = outputs[last]
    if local_views:
      online, batch_stats = network.append_local(
        params, batch_stats, batch.views.get('local'), online, per_view=per_view
      )
    fixed = jax.lax.stop_gradient(outputs[target]) if target else None
    mixed, batch_stats = embed_mixed(network, params, batch_stats, batch, per_view=per_view)
    extra = {'stages': outputs['stages'], **mixed}
    out = Out(online=online, target=fixed, h=outputs[first], extra=extra)
    return out, {'batch_stats': batch_stats}

  def represent(params: Params, state: State, images: Array):
    outputs, _ = network.apply(params, state['batch_stats'], images, train=False)
    return {'h': outputs[first], 'z': outputs[target or last]}

  return Method(
    name, init, embed, loss, post_update, represent, pairs, independent, groups=groups or {}
  )


def mean_loss(metrics: Mapping[str, Array], per_anchor: Array):
  """What most losses return: the mean, an empty carry, and metrics without gradient."""
  return per_anchor.mean(), {}, jax.tree.map(jax.lax.stop_gradient, dict(metrics))


def scores_in_batch(*, supervised: bool = False, **options: Any) -> ScoresFn:
  """The `Method.scores` of a loss inside the batch: `pair_sets` with labels if supervised."""

  def scores(out: Out, state: State, batch: Batch, rng: Array, step: Array):
    del state, rng, step
    return pair_sets(out.online, batch.label if supervised else None, **options)

  return scores
