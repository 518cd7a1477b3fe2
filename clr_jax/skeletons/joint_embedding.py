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
from clr_jax.ops.random import Stream, stream

BlockSize = Annotated[Rows | None, NO_EFFECT_ON_TRAINING]
"""Option of a method whose loss `check_block_size` checks."""


def check_two_views(name: str, info: RunInfo) -> None:
  """Raises a UserError unless there are two views, and other images to compare with."""
  if info.num_views != 2:
    raise UserError(f'{name} compares two views: set augment.num_views=2, not {info.num_views}')
  if info.batch_size < 2:
    raise UserError(f'{name} needs other images in the batch: set batch_size >= 2')


def check_block_size(
  name: str, block_size: int | None, info: RunInfo, active: Sequence[str] = ()
) -> None:
  """Raises a UserError unless block_size divides the rows of a batch (all views of its images).

  Args:
    active: keys of options in use that need all scores at once.
  """
  if block_size is not None and active:
    raise UserError(
      f'{name}: {" and ".join(active)} need all scores at once: leave method.block_size out'
    )
  rows = info.batch_size * info.num_views
  if block_size is not None and rows % block_size:
    raise UserError(
      f'{name}: method.block_size={block_size} must divide the {rows} rows of a batch '
      f'(batch_size x augment.num_views)'
    )


def commit_batch_stats(params: Params, state: State, carry: Carry, step: Array):
  """Minimal `post_update`: copies the new BatchNorm statistics to the state."""
  del step
  return params, {**state, 'batch_stats': carry['batch_stats']}


def embed_mixed(
  network: Chain, params: Params, batch_stats: State, batch: Batch, *, per_view: bool, rng: Array
) -> tuple[dict[str, Array], State]:
  """Embeds batch.views['mixed'], if present; returns {'mixed': [B, 1, D]} and new statistics.

  The result is for `Out.extra`; D is that of the last module. This is a separate pass, as in the
  official Un-Mix.
  """
  if (mixed := batch.views.get('mixed')) is None:
    return {}, batch_stats
  outputs, batch_stats = network.apply_views(params, batch_stats, mixed, per_view=per_view, rng=rng)
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
  kept: str | None = None,
  local_views: bool = False,
  init_state: Callable[[], State] = dict,
  post_update: Callable = commit_batch_stats,
  groups: Mapping[str, Group] | None = None,
) -> Method:
  """Builds a method with one network: `Out.online` is the output of the last module of `chain`.

  Out.extra = {'stages': pooled stages of the backbone, of the global views} and `embed_mixed`.

  Args:
    name: name of the method, for messages.
    chain: {'backbone': ..., 'projector': ...} in order; the first output is the feature h.
    loss: a `LossFn`.
    pairs, independent: facts about `loss`, see `clr_jax.core.types.Method`.
    per_view: separate BatchNorm statistics for each view (see `Chain.apply_views`).
    target: module before the predictor, such as 'projector': its output, without gradient, is
      `Out.target`, and the `z` of `represent` instead of the last module's.
    kept: module whose output, with gradient, is in Out.extra under its name.
    local_views: True embeds batch.views['local'] too, if present; last in Out.online.
    init_state: state besides the statistics, such as per-example tables.
    post_update: a `PostUpdateFn` that also updates the statistics.
    groups: optimizer groups by first key of params.
  """
  network = Chain(chain)
  first, last = next(iter(chain)), list(chain)[-1]

  def init(rng: Array, batch: Batch):
    params, batch_stats = network.init(rng, batch.views['global'][:, 0])
    return params, {'batch_stats': batch_stats, **init_state()}

  def embed(params: Params, state: State, batch: Batch, rng: Array, step: Array):
    del step
    of_views, of_local, of_mixed = jax.random.split(stream(rng, Stream.DROP_PATH), 3)
    views = batch.views['global']
    outputs, batch_stats = network.apply_views(
      params, state['batch_stats'], views, per_view=per_view, rng=of_views, stages=True
    )
    online = outputs[last]
    if local_views:
      online, batch_stats = network.append_local(
        params, batch_stats, batch.views.get('local'), online, per_view=per_view, rng=of_local
      )
    fixed = jax.lax.stop_gradient(outputs[target]) if target else None
    mixed, batch_stats = embed_mixed(
      network, params, batch_stats, batch, per_view=per_view, rng=of_mixed
    )
    extra = {'stages': outputs['stages'], **mixed}
    if kept:
      extra[kept] = outputs[kept]
    out = Out(online=online, target=fixed, h=outputs[first], extra=extra)
    return out, {'batch_stats': batch_stats}

  def represent(params: Params, state: State, images: Array):
    outputs, _ = network.apply(params, state['batch_stats'], images, train=False)
    return {'h': outputs[first], 'z': outputs[target or last]}

  return Method(
    name, init, embed, loss, post_update, represent, pairs, independent, groups=groups or {}
  )


def mean_loss(metrics: Mapping[str, Array], per_anchor: Array):
  """The result of most losses: the mean, an empty carry, and metrics without gradient."""
  return per_anchor.mean(), {}, jax.tree.map(jax.lax.stop_gradient, dict(metrics))


def scores_in_batch(*, supervised: bool = False, **options: Any) -> ScoresFn:
  """`Method.scores` of a loss within the batch: `pair_sets`, with labels if supervised."""

  def scores(out: Out, state: State, batch: Batch, rng: Array, step: Array):
    del state, rng, step
    return pair_sets(out.online, batch.label if supervised else None, **options)

  return scores
