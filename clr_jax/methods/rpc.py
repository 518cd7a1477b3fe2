"""RPC, relative predictive coding: Tsai et al., https://arxiv.org/abs/2103.11275."""

import flax.linen as nn

from clr_jax.core.bounds import Dimension, NonNegative, Temperature
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import decoupled
from clr_jax.models import heads
from clr_jax.skeletons.joint_embedding import (
  check_two_views,
  joint_embedding,
  mean_loss,
  scores_in_batch,
)


def rpc(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 128.0,
  alpha: NonNegative = 0.0,
  beta: NonNegative = 0.001,
  gamma: NonNegative = 1.0,
  normalize: bool = False,
  projector: heads.Recipe = 'simclr',
  hidden_dim: Dimension = 512,
  out_dim: Dimension = 128,
  per_view_bn: bool = False,
) -> Method:
  """Contrastive learning without exponentials, on unnormalized embeddings.

  Args:
    temperature: 128 on CIFAR, 32 on ImageNet (official scripts); retune alpha when changing it.
    alpha: weight of the negatives' mean score: 0 on CIFAR, 0.3 on ImageNet.
    beta: weight of the positives' squared score: 0.001 on CIFAR, 0.01 on ImageNet. With 0 the
      scores of the positives are unbounded.
    gamma: weight of the negatives' squared score: 1 on CIFAR, 0.1 on ImageNet.
    normalize: use unit embeddings; off in the official scripts.
    projector: recipe of `clr_jax.models.heads`; 512-512-128 with BatchNorm (official).
    hidden_dim: width of the hidden layers of the projector; 512 (official).
    out_dim: length of the embeddings; 128 (official).
    per_view_bn: separate BatchNorm statistics per view; False = joint (official code).
  """
  check_two_views('rpc', info)
  head = heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim)

  def loss(out, state, batch, rng, step):
    del state, batch, rng, step
    options = {'alpha': alpha, 'beta': beta, 'gamma': gamma, 'normalize': normalize}
    return mean_loss({}, decoupled.rpc(out.online, temperature=temperature, **options))

  method = joint_embedding(
    'rpc',
    {'backbone': backbone, 'projector': head},
    loss,
    pairs='own',
    per_view=per_view_bn,
  )
  return method._replace(scores=scores_in_batch(temperature=temperature, normalize=normalize))
