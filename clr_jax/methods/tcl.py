"""TCL, tuned contrastive learning: Animesh & Chandraker (the thesis), eq. 4.1 to 4.3."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.core.bounds import Dimension, NonNegative, Positive, Temperature
from clr_jax.core.types import Method, RunInfo
from clr_jax.losses import contrastive
from clr_jax.methods.supcon import check_positives
from clr_jax.models import heads
from clr_jax.skeletons.joint_embedding import (
  BlockSize,
  check_block_size,
  joint_embedding,
  mean_loss,
  scores_in_batch,
)


def tcl(
  backbone: nn.Module,
  info: RunInfo,
  *,
  temperature: Temperature = 0.1,
  k1: NonNegative = 5000.0,
  k2: Positive = 1.0,
  supervised: bool = True,
  reduction: Literal['mean', 'mean_valid'] = 'mean',
  projector: heads.Recipe = 'supcon',
  hidden_dim: Dimension | None = None,
  out_dim: Dimension = 128,
  per_view_bn: bool = False,
  block_size: BlockSize = None,
) -> Method:
  """Tuned contrastive learning with labels, or with pairs or triplets of views without labels.

  Args:
    temperature: divisor of the similarities; 0.1 (thesis A.1).
    k1: weight of hard positives: 5000 on CIFAR-10 with labels (thesis A.1), 1 without (A.3).
    k2: weight of hard negatives: 1 with labels, 1.5 without.
    supervised: take positives from labels; otherwise from the views of an image (three in the
      thesis).
    reduction: 'mean' over all anchors, or 'mean_valid' over those that have a positive.
    projector: recipe of `clr_jax.models.heads`.
    hidden_dim: width of the hidden layers of the projector; None = the backbone's width (thesis,
      supervised); 2048 without labels (solo-learn).
    out_dim: length of the embeddings; 128 with labels, 256 without.
    per_view_bn: separate BatchNorm statistics per view; False = joint (official code).
    block_size: columns of the similarity matrix computed at a time, a divisor of the rows of a
      batch, to save memory (`clr_jax.ops.blocked`). Telemetry then leaves out scores.
  """
  check_positives('tcl', info, supervised)
  check_block_size('tcl', block_size, info)
  head = heads.make(projector, hidden_dim=hidden_dim or backbone.num_features, out_dim=out_dim)

  def loss(out, state, batch, rng, step):
    del state, rng, step
    labels = batch.label if supervised else None
    result = contrastive.tcl(
      out.online, labels, temperature=temperature, k1=k1, k2=k2, block_size=block_size
    )
    count = result.has_positive.sum()
    mean, carry, metrics = mean_loss(
      {'anchors_with_positive': count / result.has_positive.size}, result.per_anchor
    )
    if reduction == 'mean_valid':
      mean = result.per_anchor.sum() / jnp.maximum(count, 1)
    return mean, carry, metrics

  method = joint_embedding(
    'tcl',
    {'backbone': backbone, 'projector': head},
    loss,
    pairs='set',
    per_view=per_view_bn,
  )
  scores = scores_in_batch(supervised=supervised, temperature=temperature, k1=k1, k2=k2)
  return method if block_size else method._replace(scores=scores)
