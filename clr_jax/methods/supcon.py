"""SupCon: Khosla et al., https://arxiv.org/abs/2004.11362."""

import flax.linen as nn
from absl import logging

from clr_jax.core.bounds import Dimension, Temperature
from clr_jax.core.errors import UserError
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import contrastive
from clr_jax.models import heads
from clr_jax.skeletons.joint_embedding import (
  BlockSize,
  check_block_size,
  joint_embedding,
  mean_loss,
  scores_in_batch,
)


def check_positives(name: str, info: RunInfo, supervised: bool) -> None:
  """Raises a UserError without labels if they define the positives, else without two views."""
  if supervised and info.num_classes is None:
    raise UserError(
      f'{name} takes its positives from labels, but this data set has no labels of two or more '
      f'classes: set method.supervised=False or use labeled data'
    )
  if supervised and info.num_views < 2:
    logging.warning(
      '%s with one view: an image without another image of its class in the batch has no positive '
      'and adds 0 to the loss: set augment.num_views=2 to give each image one',
      name,
    )
  if not supervised and info.num_views < 2:
    raise UserError(
      f'{name} without labels compares views of an image: set augment.num_views >= 2, '
      f'not {info.num_views}'
    )


def supcon(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 0.1,
  base_temperature: Temperature | None = None,
  supervised: bool = True,
  anchors: contrastive.Anchors = 'all',
  projector: heads.Recipe = 'supcon',
  out_dim: Dimension = 128,
  per_view_bn: bool = False,
  block_size: BlockSize = None,
) -> Method:
  """Supervised contrastive learning, or SimCLR's form of it with `supervised=False`.

  Args:
    temperature: divisor of the similarities; 0.1 (official CIFAR recipe).
    base_temperature: None = no rescaling of the loss; the official default is 0.07.
    supervised: take positives from labels; otherwise from views.
    anchors: 'all' or 'one' (view 0 only).
    projector: 'supcon' = Linear(d, d)-ReLU-Linear(d, 128) with biases, no BatchNorm.
    out_dim: length of the embeddings; 128 (official).
    per_view_bn: separate BatchNorm statistics per view; False = joint (official code).
    block_size: columns of the similarity matrix computed at a time, a divisor of the rows of a
      batch, to save memory (`clr_jax.ops.blocked`). Telemetry then leaves out scores.
  """
  check_positives('supcon', info, supervised)
  check_block_size('supcon', block_size, info)
  head = heads.make(projector, hidden_dim=backbone.num_features, out_dim=out_dim)

  def loss(out, state, batch, rng, step):
    del state, rng, step
    per_anchor = contrastive.supcon(
      out.online,
      batch.label if supervised else None,
      temperature=temperature,
      base_temperature=base_temperature,
      anchors=anchors,
      block_size=block_size,
    )
    return mean_loss({}, per_anchor)

  method = joint_embedding(
    'supcon',
    {'backbone': backbone, 'projector': head},
    loss,
    pairs='set',
    per_view=per_view_bn,
  )
  scores = scores_in_batch(supervised=supervised, temperature=temperature, anchors=anchors)
  return method if block_size else method._replace(scores=scores)
