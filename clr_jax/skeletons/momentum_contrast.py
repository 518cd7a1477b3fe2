"""The skeleton of MoCo and InfoMin: InfoNCE of queries against keys and a queue of keys."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.core.bounds import Dimension, Probability, Rows, Temperature
from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses.scores import infonce, score_sets
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.queue_state import check_queue, enqueue_keys, init_queue, key_rows
from clr_jax.skeletons.self_distillation import distillation


@takes_options_of(distillation, momentum=0.999)
def momentum_contrast(
  name: str,
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 0.07,
  beta: Probability = 1.0,
  queue_length: Rows = 65536,
  symmetric: bool = False,
  projector: heads.Recipe = 'linear',
  hidden_dim: Dimension | None = None,
  out_dim: Dimension = 128,
  plugins: Plugins = NONE,
  **target,
) -> Method:
  """Builds the method `name` from MoCo's hyper-parameters.

  Args:
    name: name of the method, for messages.
    temperature: divisor of the similarities; .07 (v1), .2 (v2), .1 (official CIFAR notebook).
    beta: weight of the logarithm of the denominator; 1 = InfoNCE (official), 0 = positives only
      (margins paper, eq. 6).
    queue_length: rows of the queue; 65536 (official), 4096 (official CIFAR notebook).
    symmetric: use both views as queries and keys: the loss is the sum of both directions (official
      CIFAR notebook), and two keys per image enter the queue.
    projector: recipe of `clr_jax.models.heads`: 'linear' (v1), 'mocov2' (v2).
    hidden_dim: width of the hidden layers of the projector; None = the backbone's width (v2).
    out_dim: length of the embeddings; 128 (official).
    plugins: see `clr_jax.plugins.pipeline`.
    **target: options of `distillation`: momentum .999, constant (official), .99 (official CIFAR
      notebook); ema_index 'next' (official: the average precedes the keys); per_view_bn True
      (official code embeds one view at a time).
  """
  num_keys = 2 if symmetric else 1
  check_queue(name, queue_length, info, keys_per_image=num_keys)
  pipeline = Pipeline(plugins, name, negatives=beta > 0, softmax=beta > 0, free_anchor=True)

  def compare(out, state, rng, step):
    # Asymmetric: one query view, one key view. Symmetric: the key of a query is the other view.
    return pipeline.scores(
      l2_normalize(out.online),
      jnp.swapaxes(key_rows(out.target)[::-1], 0, 1),
      state['queue']['rows'],
      own=0,
      temperature=temperature,
      rng=rng,
      step=step,
    )

  def loss(out, state, batch, rng, step):
    del batch
    keys, scores = key_rows(out.target), compare(out, state, rng, step)
    total = infonce(scores, temperature=temperature, beta=beta).sum(1).mean()
    return total, {'keys': keys.reshape(-1, keys.shape[-1])}, {}

  def scores(out, state, batch, rng, step):
    del batch
    return score_sets(compare(out, state, rng, step), temperature=temperature)

  method = distillation(
    name,
    {
      'backbone': backbone,
      'projector': heads.make(
        projector, hidden_dim=hidden_dim or backbone.num_features, out_dim=out_dim
      ),
    },
    loss,
    info,
    pairs='own',
    online_views=slice(0, num_keys),
    target_views=slice(2 - num_keys, 2),
    init_state=lambda rng: init_queue(rng, queue_length, out_dim),
    post_update=enqueue_keys,
    **target,
  )
  return method._replace(scores=scores)
