"""Dynamic MoCo: MoCo's queue with SogCLR's moving averages (the report, algorithm 1)."""

import flax.linen as nn
import jax.numpy as jnp
from absl import logging

from clr_jax.lookup import check_name
from clr_jax.losses import global_contrastive as gcl
from clr_jax.losses.queue import queue_sogclr
from clr_jax.methods._distillation import distillation
from clr_jax.methods._joint_embedding import mean_with
from clr_jax.methods._queue import check_queue, enqueue_keys, init_queue, key_rows
from clr_jax.models import heads
from clr_jax.ops import tables
from clr_jax.types import Method, RunInfo, UserError


def dynamic_moco(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: float = 0.3,
  gamma: float = 0.9,
  first_visit: str = 'per_index',
  combine: str = 'mean',
  temperature_twice: bool = False,
  queue_length: int = 65536,
  momentum: float = 0.999,
  final_momentum: float | None = None,
  ema_index: str = 'next',
  projector: str = 'sogclr',
  hidden_dim: int = 2048,
  out_dim: int = 128,
  per_view_bn: bool = True,
  represent: str = 'online',
) -> Method:
  """Global contrastive learning whose negatives are all keys of a queue; both views are queries.

  The report's code is temperature_twice=True, combine='sum', first_visit='none'.

  Args:
    temperature: .3 (the report).
    gamma: weight of the new value of u, .9 (the report).
    first_visit: 'per_index' (u starts at g), 'per_batch' or 'none' (see `sogclr`).
    combine: u of the two views: 'mean', or 'sum' (the report's code).
    temperature_twice: weights from exp(s / temperature^2), loss divided by the temperature.
    queue_length: 65536 (the report's code); two keys an image enter it.
    momentum: .999 (the report's code).
    final_momentum: end of a cosine from `momentum`; None keeps it constant.
    ema_index: 'next' (the average precedes the keys); matters with a cosine only.
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: 2048 (the report's code).
    out_dim: 128 (the report).
    per_view_bn: the report's code embeds one view at a time (True).
    represent: 'online', or 'target' for the averaged network.
  """
  check_queue('dynamic_moco', queue_length, info, keys_per_image=2)
  check_name(gcl.FIRST_VISIT, first_visit, 'method.first_visit')
  check_name(gcl.COMBINE, combine, 'method.combine')
  if not 0 < gamma <= 1:
    raise UserError(f'method.gamma is the weight of the new value, in (0, 1], not {gamma}')
  if combine == 'sum' and gamma <= 0.5:
    logging.warning("u diverges with method.combine='sum' and gamma=%s: use 'mean'", gamma)

  def loss(out, state, batch, rng, step):
    del rng, step
    old = state['per_example']['log_u'][batch.index]
    paired = out.target[:, ::-1]  # a query's key is the other view's
    result = queue_sogclr(
      out.online,
      paired,
      state['queue']['rows'],
      old,
      temperature=temperature**2 if temperature_twice else temperature,
      gamma=gcl.first_visit_gamma(old, gamma, first_visit),
    )
    scale = 1 / temperature if temperature_twice else 1.0
    mean, _, metrics = mean_with({'objective': result.objective.mean()}, scale * result.per_example)
    carry = {
      'keys': key_rows(paired).reshape(-1, paired.shape[-1]),
      'log_u': (batch.index, gcl.combine_log_u(result.log_u, combine)),
    }
    return mean, carry, metrics

  def post_update(params, state, carry, step):
    params, state = enqueue_keys(params, state, carry, step)
    log_u = tables.set_log_mean(state['per_example']['log_u'], *carry['log_u'])
    return params, {**state, 'per_example': {**state['per_example'], 'log_u': log_u}}

  def init_state(rng):
    table = tables.init_log(info.num_examples, jnp.float32)
    return {'per_example': {'log_u': table}, **init_queue(rng, queue_length, out_dim)}

  return distillation(
    'dynamic_moco',
    {
      'backbone': backbone,
      'projector': heads.get(projector, hidden_dim=hidden_dim, out_dim=out_dim),
    },
    loss,
    info,
    momentum=momentum,
    final_momentum=momentum if final_momentum is None else final_momentum,
    ema_index=ema_index,
    per_view=per_view_bn,
    represent=represent,
    init_state=init_state,
    post_update=post_update,
  )
