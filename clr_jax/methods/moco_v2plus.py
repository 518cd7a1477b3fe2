"""MoCo v2+, symmetric with a queue for each view: solo-learn, https://arxiv.org/abs/2108.01775."""

import flax.linen as nn
import jax

from clr_jax.core.types import Method, RunInfo
from clr_jax.losses.scores import infonce, score_sets
from clr_jax.models import heads
from clr_jax.ops.similarity import unit
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.queue_state import check_queue, enqueue_keys, init_queue, key_rows
from clr_jax.skeletons.self_distillation import distillation


def moco_v2plus(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: float = 0.2,
  queue_length: int = 32768,
  momentum: float = 0.99,
  final_momentum: float = 0.999,
  ema_index: str = 'current',
  projector: str = 'mocov2',
  hidden_dim: int = 2048,
  out_dim: int = 256,
  per_view_bn: bool = True,
  represent: str = 'online',
  plugins: Plugins = NONE,
) -> Method:
  """Each view is query and key; a key of view v waits in queue v for queries of the other view.

  Args:
    temperature: .2 (solo-learn).
    queue_length: of each queue: 32768 on CIFAR, 65536 on ImageNet-100 (solo-learn).
    momentum: start of the cosine, .99 (solo-learn).
    final_momentum: .999 (solo-learn).
    ema_index: 'current' (solo-learn averages after the optimizer).
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: 2048 (solo-learn).
    out_dim: 256 (solo-learn; 128 in its 2022 state).
    per_view_bn: solo-learn embeds one view at a time (True).
    represent: 'online', or 'target' for the averaged network.
    plugins: see `clr_jax.plugins.pipeline`.
  """
  check_queue('moco_v2plus', queue_length, info)
  pipeline = Pipeline(plugins, 'moco_v2plus', negatives=True, softmax=True, free_anchor=True)

  def compare(out, state, rng, step):
    keys, queue = key_rows(out.target), state['queue']['rows']
    query = unit(out.online)

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
    momentum=momentum,
    final_momentum=final_momentum,
    ema_index=ema_index,
    per_view=per_view_bn,
    represent=represent,
    init_state=lambda rng: init_queue(rng, queue_length, out_dim, leading=(2,)),
    post_update=enqueue_keys,
  )
  return method._replace(scores=scores)
