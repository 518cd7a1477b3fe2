"""Un-Mix, Method -> Method: Shen et al., https://arxiv.org/abs/2003.05438."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from clr_jax.augment import unmix
from clr_jax.core.bounds import Probability
from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import PAIRS, Array, Batch, Method, Out, Params, RunInfo, State
from clr_jax.ops.random import Stream, stream

ORDER = 10  # innermost: its mixtures replace the embeddings in the method's own loss


def un_mix(
  method: Method,
  info: RunInfo,
  *,
  enabled: bool = False,
  probability: Annotated[Probability, OnlyWith('enabled')] = 0.5,
) -> Method:
  """Adds losses of image mixtures, whose positives are both images, weighted by their shares.

  loss(online) + lam loss(mixed) + (1 - lam) loss(mixed[::-1]): mixtures of view 0 are embedded
  once; the reversed order pairs them with the partners' positives. Queues, tables and metrics come
  from the plain term, whose random key the other two share. The mixtures replace:
    - with targets (EMA network, detached projections): every online view, so that a symmetric
      loss compares the same mixtures with the targets of both views (official CIFAR code); local
      views are in the plain term only;
    - without targets: view 0; the other views, with gradient, are the positives. Mixtures are then
      negatives of each other, including the two mixtures of the same pair of images.
  A wrapper that adds its own loss (layerwise, online probe) belongs outside of this one.

  Args:
    enabled: True mixes the images of a batch.
    probability: share of steps that blend whole images; the others paste a box. 0.5 in the official
      CIFAR script and ImageNet command, 0 = boxes only (default of its ImageNet code).

  Raises:
    UserError: a method whose `pairs` are not 'own' or, when traced, that does not embed mixtures.
  """
  del info
  if not enabled:
    return method
  if method.pairs != 'own':
    raise UserError(
      f'un_mix does not support {method.name}, in which {PAIRS[method.pairs]}: each image must '
      f'have its own positive; set plugins.un_mix.enabled=False'
    )

  def embed(params: Params, state: State, batch: Batch, rng: Array, step: Array):
    images = batch.views['global'][:, 0]
    key = stream(rng, Stream.UN_MIX)
    drawn = unmix.draw(key, height=images.shape[1], width=images.shape[2], probability=probability)
    mixture = unmix.mix(images, drawn)
    views = {**batch.views, 'mixed': mixture.images[:, None]}
    out, carry = method.embed(params, state, batch._replace(views=views), rng, step)
    if 'mixed' not in out.extra:
      raise UserError(
        f'{method.name} does not embed image mixtures, which un_mix needs: '
        f'set plugins.un_mix.enabled=False'
      )
    return out._replace(extra={**out.extra, 'mixed_lam': mixture.lam}), carry

  def loss(out: Out, state: State, batch: Batch, rng: Array, step: Array):
    def of_mixed(mixed: Array) -> Array:
      return method.loss(_in_place(out, mixed), state, batch, rng, step)[0]

    value, carry, metrics = method.loss(out, state, batch, rng, step)
    mixed_loss = by_shares(of_mixed, out.extra['mixed'], out.extra['mixed_lam'])
    metrics = {**metrics, 'mixed_loss': jax.lax.stop_gradient(mixed_loss)}
    return value + mixed_loss, carry, metrics

  return method._replace(embed=embed, loss=loss, independent=False)


def by_shares(loss: Callable[[Array], Array], mixed: Array, lam: Array) -> Array:
  """lam loss(mixed) + (1 - lam) loss(mixed[::-1]); `mixed` [B, ...] in the order of the batch."""
  return lam * loss(mixed) + (1 - lam) * loss(mixed[::-1])


def _in_place(out: Out, mixed: Array) -> Out:
  """Replaces online embeddings in `out` by those of the mixtures [B, 1, D]; see `un_mix`."""
  # InfoMin's patches have their own positive in the plain term already.
  out = out._replace(extra={k: v for k, v in out.extra.items() if k != 'jigsaw'})
  if out.target is None:
    return out._replace(online=jnp.concatenate([mixed, out.online[:, 1:]], 1))
  # As many views as targets: without the local views.
  online = jnp.broadcast_to(mixed, (*out.target.shape[:2], mixed.shape[-1]))
  return out._replace(online=online)
