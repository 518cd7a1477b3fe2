"""ARB, align representations with base: Zhang et al., ECCV 2022 (code: Sherrylone/ARB)."""

from typing import Annotated

import flax.linen as nn

from clr_jax.core.bounds import Count, Dimension, Positive, Probability
from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import alignment
from clr_jax.models import heads
from clr_jax.ops import whitening
from clr_jax.skeletons.joint_embedding import check_two_views, joint_embedding, mean_loss


def arb(
  backbone: nn.Module,
  info: RunInfo,
  *,
  groups: Count = 1,
  swap: Annotated[bool, OnlyWith('groups')] = True,
  shrinkage: Probability = 1e-4,
  divisor: alignment.Divisor = 'batch',
  projector: heads.Recipe = 'barlow',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 256,
  per_view_bn: bool = True,
  loss_scale: Positive = 1.0,
) -> Method:
  """Aligns each feature of a view with the orthonormal base nearest to the other view's features.

  Args:
    groups: number of blocks of features, each with its own base; keep out_dim / groups below the
      batch size (a base has at most rank batch_size - 1). 1 for out_dim = 256 (paper).
    swap: shuffle the features before each division into groups; no effect with one group.
    shrinkage: shrinkage of the correlation matrix towards I: 1e-4 (official CIFAR code), 0
      (ImageNet).
    divisor: 'batch', as in Barlow Twins (official ImageNet code); 'feature' (official CIFAR code),
      which is equal for out_dim = batch_size and cannot reach zero loss for a larger out_dim.
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: width of the hidden layers of the projector; 2048 (official).
    out_dim: length of the embeddings; 256 or 2048 (paper).
    per_view_bn: separate BatchNorm statistics per view (official code embeds one at a time).
    loss_scale: factor of the loss; 1 = the sum over features (official, with LARS); less for other
      optimizers.
  """
  check_two_views('arb', info)
  if out_dim % groups:
    raise UserError(
      f'method.groups={groups} does not divide method.out_dim={out_dim}: set it to a divisor'
    )
  head = heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim)

  def loss(out, state, batch, rng, step):
    del state, batch, step
    num_features = out.online.shape[-1]
    order = whitening.permutations(rng, 1, num_features)[0] if swap and groups > 1 else None
    options = {'groups': groups, 'shrinkage': shrinkage, 'divisor': divisor}
    return mean_loss({}, loss_scale * alignment.arb(out.online, order, **options))

  return joint_embedding(
    'arb',
    {'backbone': backbone, 'projector': head},
    loss,
    pairs='batch',
    per_view=per_view_bn,
  )
