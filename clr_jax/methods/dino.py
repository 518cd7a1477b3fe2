"""DINO: Caron et al., https://arxiv.org/abs/2104.14294."""

import math

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.core.types import Group, Method, RunInfo
from clr_jax.losses import distillation as losses
from clr_jax.models import heads
from clr_jax.ops import ema
from clr_jax.ops.similarity import widen
from clr_jax.optim import schedules
from clr_jax.skeletons.joint_embedding import keep_statistics
from clr_jax.skeletons.self_distillation import distillation


def dino(
  backbone: nn.Module,
  info: RunInfo,
  *,
  num_prototypes: int = 65536,
  student_temperature: float = 0.1,
  teacher_temperature: float = 0.07,
  warmup_teacher_temperature: float = 0.04,
  warmup_teacher_epochs: int = 30,
  center_momentum: float = 0.9,
  freeze_last_layer: int = 1,
  momentum: float = 0.996,
  final_momentum: float = 1.0,
  ema_index: str = 'current',
  projector: str = 'dino',
  hidden_dim: int = 2048,
  out_dim: int = 256,
  per_view_bn: bool = True,
  represent: str = 'online',
) -> Method:
  """The student's scores of prototypes match the centred, sharpened ones of the other large view.

  Local views (multi-crop) go through the student only.

  Args:
    num_prototypes: 65536 (official), 4096 (solo-learn).
    student_temperature: .1 (official).
    teacher_temperature: after its warm-up, .07 (official ResNet-50 and ViT recipes).
    warmup_teacher_temperature: start of the linear warm-up by epoch, .04 (official).
    warmup_teacher_epochs: 30 (official recipes; ResNet-50 and solo-learn 50); longer than the run:
      the end is not reached.
    center_momentum: .9 (official).
    freeze_last_layer: epochs in which the prototypes stay as they are, 1 (official).
    momentum: start of the cosine: .996 (official), .9995 for batches of 256.
    final_momentum: 1 (official).
    ema_index: 'current' (official and solo-learn average after the optimizer).
    projector: 'dino', or 'dino_bn' with BatchNorm.
    hidden_dim: 2048 (official).
    out_dim: 256 (official), width of the layer before the prototypes.
    per_view_bn: statistics of each view apart (solo-learn; official code joins same-sized views).
    represent: 'online', or 'target' for the averaged network.
  """
  epochs = math.ceil(info.total_steps / info.steps_per_epoch)
  teacher_schedule = schedules.solo(
    teacher_temperature,
    total_steps=max(epochs, warmup_teacher_epochs),
    warmup_steps=warmup_teacher_epochs,
    start=warmup_teacher_temperature,
    end=teacher_temperature,
  )

  def loss(out, state, batch, rng, step):
    del batch, rng
    temperature = teacher_schedule(step // info.steps_per_epoch)
    teacher = widen(out.target)
    pairs = losses.dino(
      out.online,
      teacher,
      state['center'],
      student_temperature=student_temperature,
      teacher_temperature=temperature,
    )
    mean = pairs.sum() / (pairs.size - min(pairs.shape))
    return mean, {'teacher_mean': teacher.mean((0, 1))}, {'teacher_temperature': temperature}

  def post_update(params, state, carry, step):
    params, state = keep_statistics(params, state, carry, step)
    center = ema.update(state['center'], carry['teacher_mean'], center_momentum)
    return params, {**state, 'center': center}

  return distillation(
    'dino',
    {
      'backbone': backbone,
      'projector': heads.make(projector, hidden_dim=hidden_dim, out_dim=out_dim),
      'last': heads.Prototypes(num=num_prototypes, weight_norm=True),
    },
    loss,
    info,
    pairs='own',
    momentum=momentum,
    final_momentum=final_momentum,
    ema_index=ema_index,
    local_views=True,
    per_view=per_view_bn,
    represent=represent,
    init_state=lambda rng: {'center': jnp.zeros(num_prototypes)},
    post_update=post_update,
    groups={'last': Group(freeze_steps=freeze_last_layer * info.steps_per_epoch)},
  )
