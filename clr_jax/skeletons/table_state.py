"""Common code of methods with per-example tables: checks, the moving average u, the update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax.numpy as jnp
from absl import logging

from clr_jax.core.bounds import EpochCount, Share
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Array, Batch, Carry, Params, RunInfo, State
from clr_jax.losses import global_contrastive as gcl
from clr_jax.ops import tables
from clr_jax.optim.schedules import cosine_gamma
from clr_jax.skeletons.joint_embedding import commit_batch_stats

FirstVisit = Literal[gcl.FirstVisit, 'per_batch_first_epoch']
GammaSchedule = Literal['constant', 'cosine']


class MovingAverage(NamedTuple):
  """The functions by which a method keeps u.

  Attributes:
    init: (**initial values of other tables) -> {'per_example': {'log_u': [N_pad], ...}}, unvisited.
    read: (state, batch, step) -> (log u [B], weight of the new value [B]).
    carry: (batch, log_u [B, V], **other tables' rows [B]) -> the carry that `write_tables` reads.
  """

  init: Callable[..., State]
  read: Callable[[State, Batch, Array], tuple[Array, Array]]
  carry: Callable[..., Carry]


def moving_average(
  info: RunInfo,
  *,
  gamma: Share = 0.9,
  gamma_schedule: GammaSchedule = 'constant',
  gamma_decay_epochs: Annotated[EpochCount | None, OnlyWith(gamma_schedule='cosine')] = None,
  first_visit: FirstVisit = 'per_index',
  combine: gcl.Combine = 'mean',
) -> MovingAverage:
  """Makes the moving average u of each training example.

  Args:
    gamma: weight of the new value of u: 0.9 (official), tune in [0.1, 0.99].
    gamma_schedule: 'constant', or 'cosine' from 1 to gamma (LibAUC).
    gamma_decay_epochs: length of the cosine; None = half of the training (LibAUC).
    first_visit: initialization of u by the batch estimate g: 'per_index' (for each new example),
      'per_batch' (only if no example of the batch was visited; official ImageNet code),
      'per_batch_first_epoch' (that rule in epoch 0 only; LibAUC with its epoch hook) or 'none'
      (official CIFAR code).
    combine: how u of the two views are combined: 'mean', or 'sum' (the report's code; diverges for
      gamma <= 0.5).
  """
  if combine == 'sum' and gamma <= 0.5:
    logging.warning("u diverges with method.combine='sum' and gamma=%s: use 'mean'", gamma)
  total_epochs = max(info.total_steps // info.steps_per_epoch, 1)
  decay = cosine_gamma(gamma, gamma_decay_epochs or max(total_epochs // 2, 1))

  def init(**others):
    start = {name: tables.init(info.num_examples, value) for name, value in others.items()}
    return {'per_example': {'log_u': tables.init_log(info.num_examples), **start}}

  def read(state, batch, step):
    log_u = state['per_example']['log_u'][batch.index]
    epoch = step // info.steps_per_epoch
    now = decay(epoch) if gamma_schedule == 'cosine' else gamma
    if first_visit != 'per_batch_first_epoch':
      return log_u, gcl.first_visit_gamma(log_u, now, first_visit)
    return log_u, jnp.where(epoch == 0, gcl.first_visit_gamma(log_u, now, 'per_batch'), now)

  def carry(batch, log_u, **others):
    rows = {'log_u': gcl.combine_log_u(log_u, combine), **others}
    return {'index': batch.index, 'per_example': rows}

  return MovingAverage(init, read, carry)


def write_tables(params: Params, state: State, carry: Carry, step: Array):
  """`PostUpdateFn`: updates the statistics, and writes carry['per_example'] at carry['index'].

  Tables whose names begin with 'log_' average duplicate rows in linear space.
  """
  params, state = commit_batch_stats(params, state, carry, step)
  written = dict(state['per_example'])
  for name, value in carry['per_example'].items():
    write = tables.set_log_mean if name.startswith('log_') else tables.set_mean
    written[name] = write(written[name], carry['index'], value)
  return params, {**state, 'per_example': written}
