"""FlatNCE: Chen et al., https://arxiv.org/abs/2107.01152."""

import flax.linen as nn

from clr_jax.core.bounds import Dimension, Temperature
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import decoupled
from clr_jax.models import heads
from clr_jax.skeletons.joint_embedding import (
  check_two_views,
  joint_embedding,
  mean_loss,
  scores_in_batch,
)


def flatnce(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 0.1,
  projector: heads.Recipe = 'supcon',
  hidden_dim: Dimension | None = None,
  out_dim: Dimension = 128,
  per_view_bn: bool = False,
) -> Method:
  """Contrastive learning whose gradient does not vanish with small batches; reports InfoNCE.

  Args:
    temperature: divisor of the similarities; 0.1 (official code).
    projector: recipe of `clr_jax.models.heads`; 'supcon' has no BatchNorm (official).
    hidden_dim: width of the hidden layers of the projector; None = the backbone's width (official).
    out_dim: length of the embeddings; 128 (official).
    per_view_bn: separate BatchNorm statistics per view; False = joint (official code).
  """
  check_two_views('flatnce', info)
  head = heads.make(projector, hidden_dim=hidden_dim or backbone.num_features, out_dim=out_dim)

  def loss(out, state, batch, rng, step):
    del state, batch, rng, step
    return mean_loss({}, decoupled.flatnce(out.online, temperature=temperature))

  method = joint_embedding(
    'flatnce',
    {'backbone': backbone, 'projector': head},
    loss,
    pairs='own',
    per_view=per_view_bn,
  )
  return method._replace(scores=scores_in_batch(temperature=temperature))
