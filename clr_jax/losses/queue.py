"""Losses against a queue of earlier embeddings: MoCo, NNCLR, MoCo + SogCLR.

Queues are [K, D] unit rows as they were before the step; neither they nor the keys carry gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clr_jax.losses.distillation import paired_cross_entropy
from clr_jax.losses.global_contrastive import SogCLR, update_log_u
from clr_jax.ops.similarity import similarity, unit, widen
from clr_jax.types import Array


def queue_logits(
  query: Array,
  key: Array,
  queue: Array,
  *,
  temperature: float | Array = 0.07,
  normalize: bool = True,
) -> Array:
  """[<query, key>, <query, queue rows>] / temperature, [B, 1 + K]; class 0 is the positive.

  MoCo (https://arxiv.org/abs/1911.05722, algorithm 1).

  Args:
    query: [B, D].
    key: [B, D], detached here.
    queue: [K, D].
    temperature: 0.07 (MoCo v1), 0.2 (v2).
    normalize: False if query and key are unit vectors already.
  """
  query, key = (unit(query), unit(key)) if normalize else (widen(query), widen(key))
  key = jax.lax.stop_gradient(key)
  positive = jnp.einsum('bd,bd->b', query, key, precision=jax.lax.Precision.HIGHEST)
  negative = similarity(query, jax.lax.stop_gradient(widen(queue)))
  return jnp.concatenate([positive[:, None], negative], -1) / temperature


def queue_infonce(
  query: Array,
  key: Array,
  queue: Array,
  *,
  temperature: float | Array = 0.07,
  normalize: bool = True,
) -> Array:
  """Cross-entropy of `queue_logits` to class 0, per row [B]; arguments as there."""
  logits = queue_logits(query, key, queue, temperature=temperature, normalize=normalize)
  return -jax.nn.log_softmax(logits)[:, 0]


def nearest(z: Array, queue: Array) -> Array:
  """Index [B] of the queue row with the largest inner product with z [B, D]; ties: the first."""
  return jnp.argmax(jax.lax.stop_gradient(similarity(widen(z), widen(queue))), -1)


def nnclr(prediction: Array, z: Array, queue: Array, *, temperature: float | Array = 0.2) -> Array:
  """Cross-entropy over predictions, from the queue's nearest neighbour of z, per row [B].

  NNCLR (https://arxiv.org/abs/2104.14548, eq. 2). No gradient reaches z.

  Args:
    prediction: [B, D] of the other view, normalised inside; the softmax runs over its rows.
    z: [B, D] projections; only their direction matters.
    queue: [K, D].
    temperature: default 0.2 (solo-learn).
  """
  neighbour = jax.lax.stop_gradient(widen(queue)[nearest(z, queue)])
  return paired_cross_entropy(neighbour, prediction, temperature=temperature)


def queue_sogclr(
  query: Array,
  key: Array,
  queue: Array,
  log_u: Array,
  *,
  temperature: float | Array = 0.3,
  gamma: float | Array = 0.9,
) -> SogCLR:
  """SogCLR's estimator with all negatives from a queue ("Dynamic MoCo", the report, algorithm 1).

  s = <query, queue row>; g = mean exp(s/T); u <- (1 - gamma) u + gamma g; w = sg(exp(s/T) / u);
  the loss of a view is -<query, key> + mean w s, of an example the sum over its views.

  Args:
    query: [B, V, D], normalised inside.
    key: [B, V, D], the positive of each query, normalised inside, detached.
    queue: [K, D].
    log_u: [B], log of the stored u of these examples, -inf = unvisited.
    temperature: > 0, default 0.3 (the report).
    gamma: scalar or [B], weight of the new value (see `global_contrastive.first_visit_gamma`).
  """
  query, key = unit(query), unit(jax.lax.stop_gradient(key))
  positive = jnp.sum(query * key, -1)
  scores = similarity(query, jax.lax.stop_gradient(widen(queue)))
  fixed = jax.lax.stop_gradient(scores) / temperature
  log_g = jax.nn.logsumexp(fixed, -1) - jnp.log(len(queue))

  def per_view(x):  # scalar or [B] -> [B, V]
    x = jnp.broadcast_to(jnp.asarray(x, scores.dtype), log_u.shape)
    return jnp.broadcast_to(x[:, None], log_g.shape)

  new_log_u = update_log_u(per_view(log_u), log_g, per_view(gamma))
  weight = jax.lax.stop_gradient(jnp.exp(fixed - new_log_u[..., None]))
  return SogCLR(
    per_example=jnp.sum((weight * scores).mean(-1) - positive, -1),
    log_u=new_log_u,
    objective=temperature * new_log_u - jax.lax.stop_gradient(positive),
  )
