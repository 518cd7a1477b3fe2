"""NNCLR: Dwibedi et al., https://arxiv.org/abs/2104.14548."""

import flax.linen as nn
import jax

from clr_jax.core.bounds import Dimension, Rows, Temperature
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import queue as losses
from clr_jax.losses.scores import infonce, score_sets
from clr_jax.models import heads
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import NONE, Pipeline, Plugins
from clr_jax.skeletons.joint_embedding import check_two_views, joint_embedding
from clr_jax.skeletons.queue_state import check_queue, enqueue_keys, init_queue, key_rows


def nnclr(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 0.2,
  queue_length: Rows = 65536,
  projector: heads.Recipe = 'nnclr_projector',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 256,
  predictor: heads.Recipe = 'byol',
  predictor_dim: Dimension = 4096,
  per_view_bn: bool = True,
  plugins: Plugins = NONE,
) -> Method:
  """Contrastive learning whose positive is the other view's nearest neighbor in a queue.

  Args:
    temperature: divisor of the similarities; .2 (solo-learn), .1 in the paper.
    queue_length: rows of the queue; 65536 (solo-learn).
    projector: recipe of `clr_jax.models.heads`: three layers with BatchNorm.
    hidden_dim: width of the hidden layers of the projector; 2048 (solo-learn and paper).
    out_dim: length of the embeddings; 256 (solo-learn and paper).
    predictor: recipe of `clr_jax.models.heads`.
    predictor_dim: hidden width of the predictor; 4096 (solo-learn and paper).
    per_view_bn: separate BatchNorm statistics per view (solo-learn embeds one at a time).
    plugins: see `clr_jax.plugins.pipeline`.
  """
  check_two_views('nnclr', info)
  check_queue('nnclr', queue_length, info)
  pipeline = Pipeline(plugins, 'nnclr', negatives=True, softmax=True, free_anchor=False)

  def compare(out, state, rng, step):
    keys, queue = key_rows(out.target), state['queue']['rows']
    prediction = l2_normalize(out.online)

    def one_way(view):  # the softmax is over the predictions
      neighbor = queue[losses.nearest(keys[view], queue)]
      other = prediction[:, 1 - view]
      return pipeline.scores(
        neighbor[:, None],
        other[:, None],
        other,
        own=1,
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
    # Only view 0 enters the queue (solo-learn), after the loss.
    return (one + other) / 2, {'keys': key_rows(out.target)[0]}, {}

  def scores(out, state, batch, rng, step):
    del batch
    return score_sets(*compare(out, state, rng, step), temperature=temperature)

  method = joint_embedding(
    'nnclr',
    {
      'backbone': backbone,
      'projector': heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim),
      'predictor': heads.make(predictor, hidden_dim=predictor_dim, out_dim=out_dim),
    },
    loss,
    pairs='own',
    per_view=per_view_bn,
    target='projector',
    post_update=enqueue_keys,
  )

  def init(rng, batch):
    params, state = method.init(rng, batch)
    return params, {**state, **init_queue(rng, queue_length, out_dim)}

  return method._replace(init=init, scores=scores)
