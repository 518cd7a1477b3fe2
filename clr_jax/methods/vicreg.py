"""VICReg: Bardes et al., https://arxiv.org/abs/2105.04906."""

import flax.linen as nn

from clr_jax.core.bounds import Dimension, NonNegative
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import redundancy
from clr_jax.models import heads
from clr_jax.skeletons.joint_embedding import check_two_views, joint_embedding, mean_loss


def vicreg(
  backbone: nn.Module,
  info: RunInfo,
  *,
  invariance_weight: NonNegative = 25.0,
  variance_weight: NonNegative = 25.0,
  covariance_weight: NonNegative = 1.0,
  variance_average: bool = True,
  projector: heads.Recipe = 'vicreg',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 2048,
  per_view_bn: bool = True,
) -> Method:
  """Pulls views together, keeps each feature's variance high and decorrelates the features.

  Args:
    invariance_weight: weight of the mean squared distance; 25 (paper).
    variance_weight: weight of the hinge on the standard deviations; 25 (paper).
    covariance_weight: weight of the covariances; 1 (paper).
    variance_average: average the variance term over the views (official code); False = sum (the
      paper's equation, solo-learn).
    projector: recipe of `clr_jax.models.heads`; 'solo_vicreg' has a last bias (solo-learn).
    hidden_dim: width of the hidden layers of the projector; 2048 (solo-learn); 8192 on ImageNet
      (official).
    out_dim: length of the embeddings; same values as `hidden_dim`.
    per_view_bn: separate BatchNorm statistics per view (official code embeds one at a time).
  """
  check_two_views('vicreg', info)
  head = heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim)

  def loss(out, state, batch, rng, step):
    del state, batch, rng, step
    terms = redundancy.vicreg(out.online, variance_average=variance_average)
    value = (
      invariance_weight * terms.invariance
      + variance_weight * terms.variance
      + covariance_weight * terms.covariance
    )
    return mean_loss(terms._asdict(), value)

  return joint_embedding(
    'vicreg',
    {'backbone': backbone, 'projector': head},
    loss,
    pairs='batch',
    per_view=per_view_bn,
  )
