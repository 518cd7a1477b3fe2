"""DINO: Caron et al., https://arxiv.org/abs/2104.14294."""

import math

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.core.bounds import Dimension, Momentum, Temperature, WholeEpochs
from clr_jax.core.options import takes_options_of
from clr_jax.core.types import Group, Method, RunInfo
from clr_jax.losses import distillation as losses
from clr_jax.models import heads
from clr_jax.ops import ema
from clr_jax.ops.similarity import at_least_float32
from clr_jax.optim import schedules
from clr_jax.skeletons.joint_embedding import commit_batch_stats
from clr_jax.skeletons.self_distillation import distillation


@takes_options_of(distillation, momentum=0.996, final_momentum=1.0, ema_index='current')
def dino(
  backbone: nn.Module,
  info: RunInfo,
  *,
  num_prototypes: Dimension = 65536,
  student_temperature: Temperature = 0.1,
  teacher_temperature: Temperature = 0.07,
  warmup_teacher_temperature: Temperature = 0.04,
  warmup_teacher_epochs: WholeEpochs = 30,
  center_momentum: Momentum = 0.9,
  freeze_last_layer: WholeEpochs = 1,
  projector: heads.Recipe = 'dino',
  hidden_dim: Dimension = 2048,
  out_dim: Dimension = 256,
  **target,
) -> Method:
  """Matches the student's prototype scores to the centered, sharpened ones of another large view.

  Local views (multi-crop) pass through the student only.

  Args:
    num_prototypes: number of prototypes; 65536 (official), 4096 (solo-learn).
    student_temperature: divisor of the student's logits; .1 (official).
    teacher_temperature: divisor of the teacher's logits after its warm-up; .07 (official ResNet-50
      and ViT recipes).
    warmup_teacher_temperature: start of the linear warm-up, epoch by epoch, .04 (official).
    warmup_teacher_epochs: epochs of the teacher's warm-up; 30 (official recipes; 50 for
      ResNet-50 and in solo-learn). A longer warm-up than the run does not reach its end.
    center_momentum: weight of the old center; .9 (official).
    freeze_last_layer: first epochs in which the prototypes are frozen, 1 (official).
    projector: 'dino', or 'dino_bn' with BatchNorm.
    hidden_dim: width of the hidden layers of the projector; 2048 (official).
    out_dim: length of the embeddings before the prototypes; 256 (official).
    **target: options of `distillation`: momentum .996 (official; .9995 for batches of 256),
      final_momentum 1 (official); ema_index 'current' (official and solo-learn average after the
      optimizer); per_view_bn True (solo-learn; official code joins same-sized views).
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
    teacher = at_least_float32(out.target)
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
    params, state = commit_batch_stats(params, state, carry, step)
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
    local_views=True,
    init_state=lambda rng: {'center': jnp.zeros(num_prototypes)},
    post_update=post_update,
    groups={'last': Group(freeze_steps=freeze_last_layer * info.steps_per_epoch)},
    **target,
  )
