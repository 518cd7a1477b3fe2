"""The skeleton of Dynamic MoCo and REAL: SogCLR's averages over a queue of keys."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from clr_jax.losses import global_contrastive as gcl
from clr_jax.losses.scores import Scores
from clr_jax.methods._distillation import distillation
from clr_jax.methods._joint_embedding import mean_with
from clr_jax.methods._plugins import Plugins
from clr_jax.methods._queue import check_queue, init_queue, key_rows
from clr_jax.methods._table import moving_average, write_tables
from clr_jax.models import heads
from clr_jax.ops import queue as ring
from clr_jax.ops.similarity import unit
from clr_jax.types import Array, Method, RunInfo, State


def admit_all(state: State, queries: Array, keys: Array) -> State:
  """All keys [V, B, D] enter the queue, those of view 0 first."""
  del queries
  return {**state, 'queue': ring.enqueue(state['queue'], keys.reshape(-1, keys.shape[-1]))}


def dynamic(
  name: str,
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: float,
  gamma: float,
  first_visit: str,
  combine: str,
  temperature_twice: bool,
  queue_length: int,
  momentum: float,
  final_momentum: float | None,
  ema_index: str,
  projector: str,
  hidden_dim: int,
  out_dim: int,
  per_view_bn: bool,
  represent: str,
  plugins: Plugins,
  negatives: Callable[[Scores], Scores] = lambda scores: scores,
  admit: Callable[[State, Array, Array], State] = admit_all,
  first_state: Callable[[], State] = dict,
) -> Method:
  """A method; the hyper-parameters are those of `dynamic_moco`.

  Args:
    name: of the method, for messages.
    negatives: what the queries' scores become before the estimator, behind the plug-ins.
    admit: (state, queries, keys), unit rows [V, B, D], -> state with the next queue.
    first_state: state that `admit` needs.
  """
  check_queue(name, queue_length, info, keys_per_image=2)
  plugins.check(name, softmax=False)
  average = moving_average(info, gamma=gamma, first_visit=first_visit, combine=combine)

  def loss(out, state, batch, rng, step):
    log_u, weight = average.read(state, batch, step)
    paired = jax.lax.stop_gradient(out.target[:, ::-1])  # a query's key is the other view's
    scores = plugins.scores(
      unit(out.online),
      unit(paired),
      state['queue']['rows'],
      own=0,
      temperature=temperature,
      rng=rng,
      step=step,
    )
    result = gcl.estimate(
      negatives(scores),
      log_u,
      temperature=temperature**2 if temperature_twice else temperature,
      gamma=weight,
      eps=0.0,
    )
    scale = 1 / temperature if temperature_twice else 1.0
    mean, _, metrics = mean_with({'objective': result.objective.mean()}, scale * result.per_example)
    rows = {'queries': key_rows(out.online), 'keys': key_rows(paired)}
    return mean, {**average.carry(batch, result.log_u), **rows}, metrics

  def post_update(params, state, carry, step):
    params, state = write_tables(params, state, carry, step)
    return params, admit(state, carry['queries'], carry['keys'])

  return distillation(
    name,
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
    init_state=lambda rng: {
      **average.init(),
      **init_queue(rng, queue_length, out_dim),
      **first_state(),
    },
    post_update=post_update,
  )
