"""SogCLR: Yuan et al., https://arxiv.org/abs/2202.12387 (the report's baseline)."""

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.lookup import check_name
from clr_jax.losses import global_contrastive as gcl
from clr_jax.methods._joint_embedding import joint_embedding, keep_statistics, mean_with
from clr_jax.models import heads
from clr_jax.ops import tables
from clr_jax.schedules import cosine_gamma
from clr_jax.types import Method, RunInfo, UserError

FIRST_VISIT = (*gcl.FIRST_VISIT, 'per_batch_first_epoch')


def sogclr(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: float = 0.3,
  gamma: float = 0.9,
  gamma_schedule: str = 'constant',
  gamma_decay_epochs: int | None = None,
  first_visit: str = 'per_index',
  combine: str = 'mean',
  eps: float = 1e-8,
  projector: str = 'sogclr',
  hidden_dim: int = 2048,
  out_dim: int = 128,
  per_view_bn: bool = True,
) -> Method:
  """Global contrastive learning with one moving average u for each training example.

  Args:
    temperature: 0.3 on CIFAR (the report), 0.1 on ImageNet.
    gamma: weight of the new value of u: 0.9 (official), tune in [0.1, 0.99].
    gamma_schedule: 'constant', or 'cosine' from 1 to gamma (LibAUC).
    gamma_decay_epochs: of the cosine; None = half of the training (LibAUC).
    first_visit: 'per_index' (u starts at g for each new example), 'per_batch' (only while no
      example of the batch was visited; official ImageNet code), 'per_batch_first_epoch' (that rule
      in epoch 0 only; LibAUC with its epoch hook) or 'none' (official CIFAR code).
    combine: u of the two views: 'mean', or 'sum' (the report's code).
    eps: floor of u in the weights: 1e-8 (LibAUC), 0 in the other code bases.
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: 2048 (official).
    out_dim: 128 (official).
    per_view_bn: official code embeds one view at a time (True).
  """
  if info.num_views != 2:
    raise UserError(f'sogclr compares two views: set augment.num_views=2, not {info.num_views}')
  if info.batch_size < 2:
    raise UserError('sogclr needs negatives: set batch_size >= 2')
  if not 0 < gamma <= 1:
    raise UserError(f'method.gamma is the weight of the new value, in (0, 1], not {gamma}')
  if combine == 'sum' and gamma <= 0.5:
    raise UserError(f"u diverges with method.combine='sum' and gamma={gamma}: use 'mean'")
  for key, value, choices in (
    ('first_visit', first_visit, FIRST_VISIT),
    ('combine', combine, gcl.COMBINE),
    ('gamma_schedule', gamma_schedule, ('constant', 'cosine')),
  ):
    check_name(choices, value, f'method.{key}')
  total_epochs = max(info.total_steps // info.steps_per_epoch, 1)
  decay = cosine_gamma(gamma, gamma_decay_epochs or max(total_epochs // 2, 1))

  def gamma_of(old, step):
    epoch = step // info.steps_per_epoch
    gamma_now = decay(epoch) if gamma_schedule == 'cosine' else gamma
    if first_visit == 'per_batch_first_epoch':
      first_epoch = gcl.first_visit_gamma(old, gamma_now, 'per_batch')
      return jnp.where(epoch == 0, first_epoch, gamma_now)
    return gcl.first_visit_gamma(old, gamma_now, first_visit)

  def loss(out, state, batch, rng, step):
    del rng
    old = state['per_example']['log_u'][batch.index]
    result = gcl.sogclr(
      out.online,
      old,
      temperature=temperature,
      gamma=gamma_of(old, step),
      eps=eps,
    )
    mean, _, metrics = mean_with({'objective': result.objective.mean()}, result.per_example)
    return mean, {'log_u': (batch.index, gcl.combine_log_u(result.log_u, combine))}, metrics

  def post_update(params, state, carry, step):
    params, state = keep_statistics(params, state, carry, step)
    log_u = tables.set_log_mean(state['per_example']['log_u'], *carry['log_u'])
    return params, {**state, 'per_example': {**state['per_example'], 'log_u': log_u}}

  return joint_embedding(
    {
      'backbone': backbone,
      'projector': heads.get(projector, hidden_dim=hidden_dim, out_dim=out_dim),
    },
    loss,
    per_view=per_view_bn,
    init_state=lambda: {'per_example': {'log_u': tables.init_log(info.num_examples, jnp.float32)}},
    post_update=post_update,
  )
