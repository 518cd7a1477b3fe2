"""HCL, contrastive learning with hard negatives: Robinson et al., https://arxiv.org/abs/2010.04592."""

import flax.linen as nn

from clr_jax.core.bounds import BelowOne, Dimension, NonNegative, Temperature
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import decoupled
from clr_jax.models import heads
from clr_jax.skeletons.joint_embedding import (
  check_two_views,
  joint_embedding,
  mean_loss,
  scores_in_batch,
)


def hcl(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 0.5,
  tau_plus: BelowOne = 0.1,
  beta: NonNegative = 1.0,
  projector: heads.Recipe = 'debiased',
  hidden_dim: Dimension = 512,
  out_dim: Dimension = 128,
  per_view_bn: bool = True,
) -> Method:
  """Contrastive learning with hardness-weighted negatives, corrected for false negatives.

  Args:
    temperature: divisor of the similarities; 0.5 (official).
    tau_plus: probability that a negative has the anchor's class; 0.1 (official, STL-10).
    beta: hardness; 1 was best on STL-10 (official README), 0 is `debiased`.
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: width of the hidden layers of the projector; 512 (official).
    out_dim: length of the embeddings; 128 (official).
    per_view_bn: separate BatchNorm statistics per view (official code embeds one at a time).
  """
  check_two_views('hcl', info)
  head = heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim)

  def loss(out, state, batch, rng, step):
    del state, batch, rng, step
    result = decoupled.hcl(out.online, temperature=temperature, tau_plus=tau_plus, beta=beta)
    return mean_loss({'clamped_anchors': result.clamped.mean()}, result.per_anchor)

  method = joint_embedding(
    'hcl',
    {'backbone': backbone, 'projector': head},
    loss,
    pairs='own',
    per_view=per_view_bn,
  )
  return method._replace(scores=scores_in_batch(temperature=temperature))
