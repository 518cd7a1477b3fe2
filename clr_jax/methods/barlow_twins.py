"""Barlow Twins: Zbontar et al., https://arxiv.org/abs/2103.03230."""

import flax.linen as nn

from clr_jax.core.bounds import Dimension, NonNegative, Positive
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import redundancy
from clr_jax.models import heads
from clr_jax.skeletons.joint_embedding import check_two_views, joint_embedding, mean_loss


def barlow_twins(
  backbone: nn.Module,
  info: RunInfo,
  *,
  off_diagonal_weight: NonNegative = 0.0051,
  projector: heads.Recipe = 'barlow',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 2048,
  per_view_bn: bool = True,
  loss_scale: Positive = 0.1,
) -> Method:
  """Makes the cross-correlation of the two views' features the identity.

  Args:
    off_diagonal_weight: lambda = 0.0051 (official).
    projector: recipe of `clr_jax.models.heads`; 'solo_vicreg' has biases (solo-learn).
    hidden_dim: width of the hidden layers of the projector; 2048 (solo-learn); 8192 on ImageNet
      (official).
    out_dim: length of the embeddings; same values as `hidden_dim`.
    per_view_bn: separate BatchNorm statistics per view (official code embeds one at a time).
    loss_scale: factor of the loss; 0.1 (solo-learn, early official runs). The official code now
      uses 1, with separate learning rates for weights (0.2) and biases (0.0048).
  """
  check_two_views('barlow_twins', info)
  head = heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim)

  def loss(out, state, batch, rng, step):
    del state, batch, rng, step
    value = redundancy.barlow_twins(out.online, off_diagonal_weight=off_diagonal_weight)
    return mean_loss({}, loss_scale * value)

  return joint_embedding(
    'barlow_twins',
    {'backbone': backbone, 'projector': head},
    loss,
    pairs='batch',
    per_view=per_view_bn,
  )
