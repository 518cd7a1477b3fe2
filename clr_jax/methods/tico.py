"""TiCo: Zhu et al., https://arxiv.org/abs/2206.10698."""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.core.bounds import BelowOne, Dimension, NonNegative
from clr_jax.core.options import Formerly, takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import redundancy
from clr_jax.models import heads
from clr_jax.skeletons.joint_embedding import commit_batch_stats
from clr_jax.skeletons.self_distillation import distillation


@takes_options_of(distillation, without=('per_view_bn',), momentum=0.99, final_momentum=1.0)
def tico(
  backbone: nn.Module,
  info: RunInfo,
  *,
  rho: NonNegative = 8.0,
  beta: BelowOne = 0.9,
  detach_covariance: Annotated[bool, Formerly(False)] = True,
  projector: heads.Recipe = 'debiased',
  hidden_dim: Dimension = 4096,
  out_dim: Dimension = 256,
  **target,
) -> Method:
  """Agreement with a target network and a high-rank covariance, averaged over many batches.

  View 0 passes through the online network, view 1 through the target. The sources are TiCo-pytorch
  (github.com/sayannag/TiCo-pytorch) and lightly's TiCoLoss and ImageNet benchmark.

  Args:
    rho: weight of the covariance term: 8 (paper, lightly), 20 (TiCo-pytorch).
    beta: weight of the covariance so far, .9 (both implementations).
    detach_covariance: stop the gradient through the batch's own part of the covariance: True
      (lightly), False (TiCo-pytorch).
    projector: recipe of `clr_jax.models.heads`; 'debiased' is Linear without bias, BatchNorm, ReLU,
      Linear (both implementations).
    hidden_dim: width of the hidden layers of the projector; 4096 (paper).
    out_dim: length of the embeddings; 256 (paper).
    **target: options of `distillation`: momentum .99 (both implementations; .996 in lightly's
      example), final_momentum 1 and ema_index 'next' (both: the average precedes the pass).
  """

  def loss(out, state, batch, rng, step):
    del batch, rng, step
    terms = redundancy.tico(
      out.online[:, 0],
      out.target[:, 0],
      state['covariance'],
      beta=beta,
      detach_covariance=detach_covariance,
    )
    metrics = {'invariance': terms.invariance, 'contrast': terms.contrast}
    return terms.invariance + rho * terms.contrast, {'covariance': terms.covariance}, metrics

  def post_update(params, state, carry, step):
    params, state = commit_batch_stats(params, state, carry, step)
    return params, {**state, 'covariance': carry['covariance']}

  return distillation(
    'tico',
    {
      'backbone': backbone,
      'projector': heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim),
    },
    loss,
    info,
    pairs='batch',
    online_views=slice(0, 1),
    target_views=slice(1, 2),
    init_state=lambda rng: {'covariance': jnp.zeros([out_dim, out_dim])},
    post_update=post_update,
    **target,
  )
