"""Supervised training with cross-entropy: the baseline of every table."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import optax

from clr_jax.core.bounds import BelowOne
from clr_jax.core.errors import UserError
from clr_jax.core.types import Group, Method, RunInfo
from clr_jax.models import heads
from clr_jax.ops.similarity import at_least_float32
from clr_jax.skeletons.joint_embedding import joint_embedding, mean_loss


def supervised(
  backbone: nn.Module,
  info: RunInfo,
  *,
  head_layers: Literal[1, 2] = 1,
  label_smoothing: BelowOne = 0.0,
  per_view_bn: bool = False,
) -> Method:
  """Softmax cross-entropy of a classifier of the backbone's feature, averaged over views.

  Args:
    head_layers: 1 for a linear layer; 2 for Linear - ReLU - Linear of the feature's width (the
      fine-tuned network of the robustness report).
    label_smoothing: share of the target spread over all classes, 0 in the documents.
    per_view_bn: separate BatchNorm statistics for each view.
  """
  if info.num_classes is None:
    raise UserError(
      'supervised training needs labels of two or more classes, which this data set does not have: '
      'use labeled data or another method'
    )
  head = heads.make(
    'linear' if head_layers == 1 else 'supcon',
    hidden_dim=backbone.num_features,
    out_dim=info.num_classes,
  )
  return classification(
    backbone, head, info.num_classes, label_smoothing=label_smoothing, per_view_bn=per_view_bn
  )


def classification(
  backbone: nn.Module,
  classifier: nn.Module,
  num_classes: int,
  *,
  label_smoothing: float = 0.0,
  per_view_bn: bool = False,
  groups: Mapping[str, Group] | None = None,
) -> Method:
  """`supervised` with any classifier module(h [R, F], train=..., groups=...) of features."""

  def loss(out, state, batch, rng, step):
    del state, rng, step
    logits = at_least_float32(out.online)
    target = optax.smooth_labels(
      jnp.eye(num_classes, dtype=logits.dtype)[batch.label], label_smoothing
    )
    target = jnp.broadcast_to(target[:, None], logits.shape)
    top1 = (logits.argmax(-1) == batch.label[:, None]).mean()
    return mean_loss({'train_top1': top1}, optax.softmax_cross_entropy(logits, target))

  method = joint_embedding(
    'supervised',
    {'backbone': backbone, 'classifier': classifier},
    loss,
    pairs='set',
    independent=True,
    per_view=per_view_bn,
    groups=groups,
  )

  def represent(params, state, images):
    outputs = method.represent(params, state, images)
    return {'h': outputs['h'], 'z': outputs['h'], 'logits': outputs['z']}

  return method._replace(represent=represent)
