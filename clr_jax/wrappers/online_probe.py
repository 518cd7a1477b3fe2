"""Online linear probe, Method -> Method: measures accuracy while a method trains."""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from clr_jax.core.bounds import NonNegative
from clr_jax.core.options import OnlyWith
from clr_jax.core.types import Array, Batch, Group, Method, Out, Params, RunInfo, State
from clr_jax.ops.random import Stream, stream
from clr_jax.ops.similarity import at_least_float32


def online_probe(
  method: Method,
  info: RunInfo,
  *,
  enabled: bool = True,
  learning_rate: Annotated[NonNegative, OnlyWith(enabled=True)] = 0.1,
  weight_decay: Annotated[NonNegative, OnlyWith(enabled=True)] = 0.0,
) -> Method:
  """Trains a linear classifier on the detached features; always the outermost wrapper.

  The encoder's update is the same with and without it: no gradient reaches the encoder and SAM
  ignores the probe's parameters. Rows with label -1 (unlabeled) do not count.

  Args:
    info: facts about the run; without classes, the method is returned unchanged.
    enabled: True trains a linear classifier on the features, which it does not change.
    learning_rate: constant learning rate of the group 'probe' (solo-learn: 0.1).
    weight_decay: weight decay of the group 'probe' (solo-learn: 0).
  """
  num_classes = info.num_classes
  if not enabled or num_classes is None:
    return method

  def classify(params: Params, h: Array) -> Array:
    rows = at_least_float32(h).reshape(-1, h.shape[-1])
    logits = rows @ params['probe']['kernel'] + params['probe']['bias'][None]
    return logits.reshape(*h.shape[:-1], num_classes)

  def init(rng: Array, batch: Batch):
    params, state = method.init(rng, batch)
    images = jax.ShapeDtypeStruct(batch.views['global'][:, 0].shape, batch.views['global'].dtype)
    width = jax.eval_shape(method.represent, params, state, images)['h'].shape[-1]
    kernel = 0.01 * jax.random.normal(stream(rng, Stream.PROBE), [width, num_classes])
    return {**params, 'probe': {'kernel': kernel, 'bias': jnp.zeros(num_classes)}}, state

  def embed(params: Params, state: State, batch: Batch, rng: Array, step: Array):
    out, carry = method.embed(params, state, batch, rng, step)
    logits = classify(params, jax.lax.stop_gradient(out.h))
    return out._replace(extra={**out.extra, 'probe_logits': logits}), carry

  def loss(out: Out, state: State, batch: Batch, rng: Array, step: Array):
    value, carry, metrics = method.loss(out, state, batch, rng, step)
    logits = out.extra['probe_logits']
    label = jnp.broadcast_to(batch.label[:, None], logits.shape[:-1])
    known = label >= 0
    count = jnp.maximum(known.sum(), 1)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, label, 0))
    probe_loss = jnp.where(known, losses, 0.0).sum() / count
    top1 = (known & (logits.argmax(-1) == label)).sum() / count
    metrics = {'loss': value, **metrics, 'probe_loss': probe_loss, 'probe_top1': top1}
    return value + probe_loss, carry, jax.tree.map(jax.lax.stop_gradient, metrics)

  def represent(params: Params, state: State, images: Array):
    outputs = method.represent(params, state, images)
    return {**outputs, 'probe_logits': classify(params, outputs['h'])}

  group = Group(lr=learning_rate, weight_decay=weight_decay, no_sam=True)
  return method._replace(
    init=init,
    embed=embed,
    loss=loss,
    represent=represent,
    groups={**method.groups, 'probe': group},
  )
