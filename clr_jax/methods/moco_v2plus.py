"""MoCo v2+, symmetric with a queue for each view: solo-learn, https://arxiv.org/abs/2108.01775."""

import flax.linen as nn
import jax

from clr_jax.core.bounds import Dimension, Rows, Temperature
from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses.scores import infonce, score_sets
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.queue_state import check_queue, enqueue_keys, init_queue, key_rows
from clr_jax.skeletons.self_distillation import distillation


@takes_options_of(distillation, momentum=0.99, final_momentum=0.999, ema_index='current')
def moco_v2plus(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 0.2,
  queue_length: Rows = 32768,
  projector: heads.Recipe = 'mocov2',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 256,
  plugins: Plugins = NONE,
  **target,
) -> Method:
  """Uses each view as query and key; queue v holds keys of view v for queries of the other view.

  Args:
    temperature: divisor of the similarities; .2 (solo-learn).
    queue_length: rows of each queue: 32768 on CIFAR, 65536 on ImageNet-100 (solo-learn).
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: width of the hidden layers of the projector; 2048 (solo-learn).
    out_dim: length of the embeddings; 256 (solo-learn; 128 in its 2022 state).
    plugins: see `clr_jax.plugins.pipeline`.
    **target: options of `distillation`: momentum .99, final_momentum .999, ema_index 'current'
      (averages after the optimizer), per_view_bn True (embeds one view at a time): all as in
      solo-learn.
  """
  check_queue('moco_v2plus', queue_length, info)
  pipeline = Pipeline(plugins, 'moco_v2plus', negatives=True, softmax=True, free_anchor=True)

  def compare(out, state, rng, step):
    keys, queue = key_rows(out.target), state['queue']['rows']
    query = l2_normalize(out.online)

    def one_way(view):
      return pipeline.scores(
        query[:, view, None],
        keys[1 - view][:, None],
        queue[1 - view],
        own=0,
        temperature=temperature,
        rng=jax.random.fold_in(rng, view),
        step=step,
      )

    return one_way(0), one_way(1)

  def loss(out, state, batch, rng, step):
    del batch
    one, other = (
      infonce(scores, temperature=temperature).mean() for scores in compare(out, state, rng, step)
    )
    return (one + other) / 2, {'keys': key_rows(out.target)}, {}

  def scores(out, state, batch, rng, step):
    del batch
    return score_sets(*compare(out, state, rng, step), temperature=temperature)

  method = distillation(
    'moco_v2plus',
    {
      'backbone': backbone,
      'projector': heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim),
    },
    loss,
    info,
    pairs='own',
    init_state=lambda rng: init_queue(rng, queue_length, out_dim, leading=(2,)),
    post_update=enqueue_keys,
    **target,
  )
  return method._replace(scores=scores)
