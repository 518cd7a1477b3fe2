"""ReSSL: Zheng et al., https://arxiv.org/abs/2107.09282."""

import flax.linen as nn

from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import distillation as losses
from clr_jax.models import heads
from clr_jax.skeletons.queue_state import check_queue, enqueue_keys, init_queue, key_rows
from clr_jax.skeletons.self_distillation import distillation


def ressl(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature_q: float = 0.1,
  temperature_k: float = 0.04,
  queue_length: int = 131072,
  momentum: float = 0.999,
  final_momentum: float | None = None,
  ema_index: str = 'next',
  projector: str = 'mocov2',
  hidden_dim: int = 4096,
  out_dim: int = 512,
  per_view_bn: bool = True,
  represent: str = 'online',
) -> Method:
  """The student (view 0, strong) matches the teacher's (view 1, weak) similarities to a queue.

  Args:
    temperature_q: of the student, .1 (official).
    temperature_k: of the teacher, .04 (official); smaller sharpens.
    queue_length: 131072 (official, ImageNet), 65536 (solo-learn).
    momentum: .999 (official); solo-learn: .99 to 1.
    final_momentum: end of a cosine from `momentum`; None keeps it constant (official).
    ema_index: 'next' (official: the average precedes the keys); 'current' in solo-learn.
    projector: recipe of `clr_jax.models.heads`: no BatchNorm (official).
    hidden_dim: 4096 (official).
    out_dim: 512 (official), 256 (solo-learn).
    per_view_bn: official code embeds one view at a time (True).
    represent: 'online', or 'target' for the averaged network.
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
    momentum=momentum,
    final_momentum=momentum if final_momentum is None else final_momentum,
    ema_index=ema_index,
    online_views=slice(0, 1),
    target_views=slice(1, 2),
    per_view=per_view_bn,
    represent=represent,
    init_state=lambda rng: init_queue(rng, queue_length, out_dim),
    post_update=enqueue_keys,
  )
