"""ReSSL: Zheng et al., https://arxiv.org/abs/2107.09282."""

import flax.linen as nn

from clr_jax.core.bounds import Dimension, Rows, Temperature
from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import distillation as losses
from clr_jax.models import heads
from clr_jax.skeletons.queue_state import check_queue, enqueue_keys, init_queue, key_rows
from clr_jax.skeletons.self_distillation import distillation


@takes_options_of(distillation, momentum=0.999)
def ressl(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature_q: Temperature = 0.1,
  temperature_k: Temperature = 0.04,
  queue_length: Rows = 131072,
  projector: heads.Recipe = 'mocov2',
  hidden_dim: Dimension = 4096,
  out_dim: Dimension = 512,
  **target,
) -> Method:
  """Matches the student's similarities to a queue (strong view 0) with the teacher's (weak view 1).

  Args:
    temperature_q: temperature of the student, .1 (official).
    temperature_k: temperature of the teacher, .04 (official); smaller values sharpen the targets.
    queue_length: rows of the queue; 131072 (official, ImageNet), 65536 (solo-learn).
    projector: recipe of `clr_jax.models.heads`: no BatchNorm (official).
    hidden_dim: width of the hidden layers of the projector; 4096 (official).
    out_dim: length of the embeddings; 512 (official), 256 (solo-learn).
    **target: options of `distillation`: momentum .999, constant (official; solo-learn: .99 to 1);
      ema_index 'next' (official: the average precedes the keys; 'current' in solo-learn);
      per_view_bn True (official code embeds one view at a time).
  """
  check_queue('ressl', queue_length, info)

  def loss(out, state, batch, rng, step):
    del batch, rng, step
    keys = key_rows(out.target)[0]
    rows = losses.ressl(
      out.online[:, 0],
      keys,
      state['queue']['rows'],
      temperature_q=temperature_q,
      temperature_k=temperature_k,
    )
    return rows.mean(), {'keys': keys}, {}

  return distillation(
    'ressl',
    {
      'backbone': backbone,
      'projector': heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim),
    },
    loss,
    info,
    pairs='own',
    online_views=slice(0, 1),
    target_views=slice(1, 2),
    init_state=lambda rng: init_queue(rng, queue_length, out_dim),
    post_update=enqueue_keys,
    **target,
  )
