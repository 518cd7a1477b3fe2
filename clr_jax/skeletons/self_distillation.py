"""The skeleton of methods with a target network, a moving average of the online one.

`state['target'] = {'params': ..., 'batch_stats': ...}`: the target runs in training mode and its
batch statistics are its own; only parameters are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import flax.linen as nn
import jax

from clr_jax.core.bounds import Momentum
from clr_jax.core.errors import UserError
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
  State,
)
from clr_jax.models.siamese import Chain
from clr_jax.ops import ema
from clr_jax.ops.random import Stream, stream
from clr_jax.optim.schedules import ema_cosine
from clr_jax.skeletons.joint_embedding import commit_batch_stats, embed_mixed


def distillation(
  name: str,
  encoder: Mapping[str, nn.Module],
  loss: Callable,
  info: RunInfo,
  pairs: Pairs,
  predictor: nn.Module | None = None,
  online_views: slice = slice(None),
  target_views: slice = slice(None),
  local_views: bool = False,
  init_state: Callable[[Array], State] = lambda rng: {},
  post_update: Callable = commit_batch_stats,
  groups: Mapping[str, Group] | None = None,
  *,
  momentum: Momentum,
  final_momentum: Momentum | None = None,
  ema_index: Literal['current', 'next'] = 'next',
  per_view_bn: bool = True,
  represent: Literal['online', 'target'] = 'online',
) -> Method:
  """Builds a method with a target network, the moving average of the encoder.

  Out.online is the output of encoder and predictor, Out.target that of the averaged encoder,
  Out.extra as in `joint_embedding`, from the online network. The keyword-only arguments are options
  of the methods, which take them by `takes_options_of(distillation, momentum=...)`.

  Args:
    name: name of the method, for messages.
    encoder: {'backbone': ..., 'projector': ..., ...} in order; the target is its average.
    loss: a `LossFn`.
    info: facts about the run; two global views are required, and total_steps is the length of the
      momentum's cosine.
    pairs: fact about `loss`, see `clr_jax.core.types.Method`.
    predictor: module after the online encoder only.
    online_views, target_views: global views that each network embeds.
    local_views: True lets the online network embed batch.views['local'] too, if present; last in
      Out.online.
    init_state: rng -> state besides statistics and target, such as a queue.
    post_update: a `PostUpdateFn` for that state that also updates the online statistics.
    groups: optimizer groups by first key of params.
    momentum: weight of the old average; start of a half cosine over the run.
    final_momentum: end of the cosine; None keeps `momentum` constant.
    ema_index: momentum of the average after step s: m(s) ('current': BYOL, DINO, solo-learn) or
      m(s + 1) ('next', which equals averaging before the keys of step s + 1: MoCo, ReSSL). Matters
      only with a cosine.
    per_view_bn: separate BatchNorm statistics for each view (see `Chain.apply_views`), as in code
      that embeds one view at a time.
    represent: network to evaluate: 'online', or 'target' for the averaged one.
  """
  final = momentum if final_momentum is None else final_momentum
  _check(name, info, momentum, final)
  target_network = Chain(encoder)
  network = Chain({**encoder, 'predictor': predictor} if predictor is not None else encoder)
  first, last = next(iter(encoder)), list(encoder)[-1]
  online_last = last if predictor is None else 'predictor'
  schedule = ema_cosine(momentum, final=final, total_steps=info.total_steps)
  shift = {'current': 0, 'next': 1}[ema_index]

  def of_encoder(tree):
    return {k: tree[k] for k in encoder if k in tree}

  def init(rng: Array, batch: Batch):
    params, batch_stats = network.init(rng, batch.views['global'][:, 0])
    target = {'params': of_encoder(params), 'batch_stats': of_encoder(batch_stats)}
    return params, {'batch_stats': batch_stats, 'target': ema.copy(target), **init_state(rng)}

  def embed(params: Params, state: State, batch: Batch, rng: Array, step: Array):
    del step
    of_views, of_local, of_mixed = jax.random.split(stream(rng, Stream.DROP_PATH), 3)
    views, target = batch.views['global'], state['target']
    outputs, batch_stats = network.apply_views(
      params,
      state['batch_stats'],
      views[:, online_views],
      per_view=per_view_bn,
      rng=of_views,
      stages=True,
    )
    online = outputs[online_last]
    if local_views:
      online, batch_stats = network.append_local(
        params, batch_stats, batch.views.get('local'), online, per_view=per_view_bn, rng=of_local
      )
    mixed, batch_stats = embed_mixed(
      network, params, batch_stats, batch, per_view=per_view_bn, rng=of_mixed
    )
    target_outputs, target_stats = target_network.apply_views(
      target['params'], target['batch_stats'], views[:, target_views], per_view=per_view_bn
    )
    fixed = jax.lax.stop_gradient(target_outputs[last])
    out = Out(online, fixed, outputs[first], {'stages': outputs['stages'], **mixed})
    return out, {'batch_stats': batch_stats, 'target_stats': target_stats}

  def update(params: Params, state: State, carry: Carry, step: Array):
    params, state = post_update(params, state, carry, step)
    average = ema.update(state['target']['params'], of_encoder(params), schedule(step + shift))
    target = {'params': average, 'batch_stats': carry['target_stats']}
    return params, {**state, 'target': target}

  def represent_images(params: Params, state: State, images: Array):
    if represent == 'target':
      params, state = state['target']['params'], state['target']
    outputs, _ = target_network.apply(params, state['batch_stats'], images, train=False)
    return {'h': outputs[first], 'z': outputs['projector']}

  return Method(name, init, embed, loss, update, represent_images, pairs, groups=groups or {})


def _check(name: str, info: RunInfo, momentum: float, final_momentum: float) -> None:
  if info.num_views != 2:
    raise UserError(f'{name} compares two views: set augment.num_views=2, not {info.num_views}')
  if momentum > final_momentum:
    raise UserError(
      f'{name} needs method.momentum <= method.final_momentum, not {momentum} and {final_momentum}'
    )
