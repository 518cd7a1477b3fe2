"""The skeleton of Dynamic MoCo and REAL: SogCLR's averages over a queue of keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from clr_jax.core.bounds import Dimension, Rows, Share, Temperature
from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Array, Method, RunInfo, State
from clr_jax.losses import global_contrastive as gcl
from clr_jax.losses.scores import Scores, score_sets
from clr_jax.models import heads
from clr_jax.ops import queue as ring
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.joint_embedding import mean_loss
from clr_jax.skeletons.queue_state import check_queue, init_queue, key_rows
from clr_jax.skeletons.self_distillation import distillation
from clr_jax.skeletons.table_state import FirstVisit, moving_average, write_tables


def admit_all(state: State, queries: Array, keys: Array) -> State:
  """All keys [V, B, D] enter the queue, those of view 0 first."""
  del queries
  return {**state, 'queue': ring.enqueue(state['queue'], keys.reshape(-1, keys.shape[-1]))}


class Retrieval(NamedTuple):
  """The parts of Dynamic MoCo that REAL replaces.

  Attributes:
    negatives: maps the queries' scores, after the plug-ins, to those that the estimator uses.
    admit: (state, queries, keys), unit rows [V, B, D], -> state with the next queue.
    first_state: initial values of the state that `admit` needs.
  """

  negatives: Callable[[Scores], Scores] = lambda scores: scores
  admit: Callable[[State, Array, Array], State] = admit_all
  first_state: Callable[[], State] = dict


@takes_options_of(distillation, momentum=0.999)
def dynamic(
  name: str,
  backbone: nn.Module,
  info: RunInfo,
  retrieval: Retrieval = Retrieval(),
  *,
  temperature: Temperature = 0.3,
  gamma: Share = 0.9,
  first_visit: FirstVisit = 'per_index',
  combine: gcl.Combine = 'mean',
  temperature_twice: bool = False,
  symmetric: bool = True,
  queue_length: Rows = 65536,
  projector: heads.Recipe = 'sogclr',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 128,
  plugins: Plugins = NONE,
  **target,
) -> Method:
  """Builds the method `name`, Dynamic MoCo or REAL, from their common hyper-parameters.

  The report's code is temperature_twice=True, combine='sum', first_visit='none'.

  Args:
    temperature: divisor of the similarities; .3 (the report).
    gamma: weight of the new value of u, .9 (the report).
    first_visit: 'per_index' (u starts at g), 'none' (the report's code); see `moving_average`.
    combine: u of the two views: 'mean', or 'sum' (the report's code).
    temperature_twice: weights from exp(s / temperature^2), loss divided by the temperature.
    symmetric: both views are queries and keys, and two keys per image enter the queue (the report's
      code); False: view 0 is the query, view 1 the key (the report's algorithm 1).
    queue_length: rows of the queue; 65536 (the report's code).
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: width of the hidden layers of the projector; 2048 (the report's code).
    out_dim: length of the embeddings; 128 (the report).
    plugins: see `clr_jax.plugins.pipeline`.
    **target: options of `distillation`: momentum .999, constant; ema_index 'next' (the average
      precedes the keys); per_view_bn True (one view at a time): all as in the report's code.
  """
  num_keys = 2 if symmetric else 1
  check_queue(name, queue_length, info, keys_per_image=num_keys)
  pipeline = Pipeline(plugins, name, negatives=True, softmax=False, free_anchor=True)
  average = moving_average(info, gamma=gamma, first_visit=first_visit, combine=combine)

  weighting = temperature**2 if temperature_twice else temperature

  def compare(out, state, rng, step):
    paired = jax.lax.stop_gradient(out.target[:, ::-1])  # the key of a query is the other view
    scores = pipeline.scores(
      l2_normalize(out.online),
      l2_normalize(paired),
      state['queue']['rows'],
      own=0,
      temperature=temperature,
      rng=rng,
      step=step,
    )
    return paired, retrieval.negatives(scores)

  def loss(out, state, batch, rng, step):
    log_u, weight = average.read(state, batch, step)
    paired, scores = compare(out, state, rng, step)
    result = gcl.estimate(scores, log_u, temperature=weighting, gamma=weight, eps=0.0)
    scale = 1 / temperature if temperature_twice else 1.0
    mean, _, metrics = mean_loss({'objective': result.objective.mean()}, scale * result.per_example)
    rows = {'queries': key_rows(out.online), 'keys': key_rows(paired)}
    return mean, {**average.carry(batch, result.log_u), **rows}, metrics

  def post_update(params, state, carry, step):
    params, state = write_tables(params, state, carry, step)
    return params, retrieval.admit(state, carry['queries'], carry['keys'])

  def scores_of(out, state, batch, rng, step):
    del batch
    return score_sets(compare(out, state, rng, step)[1], temperature=weighting)

  method = distillation(
    name,
    {
      'backbone': backbone,
      'projector': heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim),
    },
    loss,
    info,
    pairs='own',
    online_views=slice(0, num_keys),
    target_views=slice(2 - num_keys, 2),
    init_state=lambda rng: {
      **average.init(),
      **init_queue(rng, queue_length, out_dim),
      **retrieval.first_state(),
    },
    post_update=post_update,
    **target,
  )
  return method._replace(scores=scores_of)
