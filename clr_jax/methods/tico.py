"""TiCo: Zhu et al., https://arxiv.org/abs/2206.10698."""

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import redundancy
from clr_jax.models import heads
from clr_jax.skeletons.joint_embedding import keep_statistics
from clr_jax.skeletons.self_distillation import distillation


def tico(
  backbone: nn.Module,
  info: RunInfo,
  *,
  rho: float = 8.0,
  beta: float = 0.9,
  momentum: float = 0.99,
  final_momentum: float = 1.0,
  ema_index: str = 'next',
  projector: str = 'debiased',
  hidden_dim: int = 4096,
  out_dim: int = 256,
  represent: str = 'online',
) -> Method:
  """Agreement with a target network, and a covariance over many batches that is kept of high rank.

  View 0 goes through the online network, view 1 through the target. The sources are TiCo-pytorch
  (github.com/sayannag/TiCo-pytorch) and lightly's TiCoLoss and ImageNet benchmark.

  Args:
    rho: weight of the covariance term: 8 (recommended by the paper), 20 (default of both codes).
    beta: weight of the covariance so far, .9 (both codes).
    momentum: start of the cosine: .99 (both codes), .996 (lightly's example).
    final_momentum: 1 (both codes).
    ema_index: 'next' (both codes average before the pass).
    projector: recipe of `clr_jax.models.heads`; 'debiased' is Linear without bias, BatchNorm, ReLU,
      Linear (both codes).
    hidden_dim: 4096 (paper).
    out_dim: 256 (paper).
    represent: 'online', or 'target' for the averaged network.
  """
  if not 0 <= beta < 1:
    raise UserError(f'method.beta is the weight of the old covariance, in [0, 1), not {beta}')

  def loss(out, state, batch, rng, step):
    del batch, rng, step
    terms = redundancy.tico(out.online[:, 0], out.target[:, 0], state['covariance'], beta=beta)
    metrics = {'invariance': terms.invariance, 'contrast': terms.contrast}
    return terms.invariance + rho * terms.contrast, {'covariance': terms.covariance}, metrics

  def post_update(params, state, carry, step):
    params, state = keep_statistics(params, state, carry, step)
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
    momentum=momentum,
    final_momentum=final_momentum,
    ema_index=ema_index,
    online_views=slice(0, 1),
    target_views=slice(1, 2),
    represent=represent,
    init_state=lambda rng: {'covariance': jnp.zeros([out_dim, out_dim])},
    post_update=post_update,
  )
