"""The chain backbone -> projector -> predictor, applied to all views of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax.core.types import Array, Params, State


class Chain(NamedTuple):
  """A sequence of modules, each with its own first key in `params`.

  Every module is called as module(x, train=..., groups=...).
  """

  modules: Mapping[str, nn.Module]

  def init(self, rng: Array, images: Array) -> tuple[Params, State]:
    """Initial parameters and BatchNorm statistics by module name; `images` is [B, H, W, C]."""
    params, batch_stats, x = {}, {}, images
    for i, (name, module) in enumerate(self.modules.items()):
      x, variables = module.init_with_output(jax.random.fold_in(rng, i), x, train=False)
      params[name] = variables['params']
      if 'batch_stats' in variables:
        batch_stats[name] = variables['batch_stats']
    return params, batch_stats

  def apply(
    self,
    params: Params,
    batch_stats: State,
    images: Array,
    *,
    train: bool,
    groups: int = 1,
    rng: Array | None = None,
    stages: bool = False,
  ) -> tuple[dict[str, Any], State]:
    """Returns every module's output by name, and new statistics (the old ones if not `train`).

    With `stages` (and `train`), outputs['stages'] holds the collection of this name (see `ResNet`),
    or {}. `rng` is the random stream 'drop_path' in training; without it, no module is random.
    """
    outputs, new_stats, x = {}, dict(batch_stats), images
    mutable = ['batch_stats']
    rngs = None if rng is None else {'drop_path': rng}
    if stages:
      mutable.append('stages')
      outputs['stages'] = {}
    terms = getattr(next(iter(self.modules.values())), 'norm_terms', 0)
    for name, module in self.modules.items():
      if getattr(module, 'norm_terms', terms) != terms:  # a head normalizes as the backbone does
        module = module.clone(norm_terms=terms)
      variables = {'params': params[name]}
      if name in batch_stats:
        variables['batch_stats'] = batch_stats[name]
      if train:
        x, updated = module.apply(
          variables, x, train=True, groups=groups, mutable=mutable, rngs=rngs
        )
        if 'batch_stats' in updated:
          new_stats[name] = updated['batch_stats']
        if 'stages' in updated:
          outputs['stages'] = updated['stages']
      else:
        x = module.apply(variables, x, train=False)
      outputs[name] = x
    return outputs, new_stats

  def apply_views(
    self,
    params: Params,
    batch_stats: State,
    views: Array,
    *,
    per_view: bool = True,
    rng: Array | None = None,
    stages: bool = False,
  ) -> tuple[dict[str, Any], State]:
    """Runs a training pass over views [B, V, H, W, C]: outputs [B, V, ...] and new statistics.

    `per_view` normalizes each view by its own batch statistics, like code that calls the network
    once per view; otherwise all views are one batch, like code that concatenates them. A reshape
    folds views into the batch, since concatenating sharded images would move all of them.
    """
    batch_size, num_views = views.shape[:2]
    images = views.reshape(batch_size * num_views, *views.shape[2:])
    groups = num_views if per_view else 1
    outputs, new_stats = self.apply(
      params, batch_stats, images, train=True, groups=groups, rng=rng, stages=stages
    )
    unfold = jax.tree.map(lambda v: v.reshape(batch_size, num_views, *v.shape[1:]), outputs)
    return unfold, new_stats

  def append_local(
    self,
    params: Params,
    batch_stats: State,
    local: Array | None,
    online: Array,
    *,
    per_view: bool = True,
    rng: Array | None = None,
  ) -> tuple[Array, State]:
    """Multi-crop: appends the last module's output for views `local` [B, L, h, w, C] to `online`.

    [B, V, ...] becomes [B, V + L, ...]; None changes nothing. Returns the new statistics, too.
    """
    if local is None:
      return online, batch_stats
    outputs, batch_stats = self.apply_views(params, batch_stats, local, per_view=per_view, rng=rng)
    return jnp.concatenate([online, outputs[list(self.modules)[-1]]], 1), batch_stats
