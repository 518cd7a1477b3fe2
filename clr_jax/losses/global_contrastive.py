"""SogCLR: contrastive loss against the whole data set through per-example moving averages."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from clr_jax.lookup import check_name
from clr_jax.losses.scores import Scores, two_view_scores
from clr_jax.ops.similarity import logsumexp, unit, widen
from clr_jax.types import Array

FIRST_VISIT = ('per_index', 'per_batch', 'none')
COMBINE = ('mean', 'sum')


class SogCLR(NamedTuple):
  """Attributes:
  per_example: [B], the surrogate whose gradient is the estimator's; may be negative.
  log_u: [B, 2], the new log u of each view.
  objective: [B, 2], T log u - s_pos, the quantity that training lowers (for logging).
  """

  per_example: Array
  log_u: Array
  objective: Array


def first_visit_gamma(log_u: Array, gamma: float | Array, rule: str) -> Array:
  """Weight [B] of the new value: 1 for examples that were never visited.

  Args:
    log_u: [B] old log u, -inf = unvisited.
    gamma: configured weight, in (0, 1].
    rule: 'per_index' (1 for each unvisited row), 'per_batch' (1 for all rows if none was visited;
      SogCLR for ImageNet, LibAUC) or 'none' (SogCLR for CIFAR).
  """
  check_name(FIRST_VISIT, rule, 'first visit rule')
  unvisited = jnp.isneginf(log_u)
  if rule == 'per_index':
    return jnp.where(unvisited, 1.0, gamma)
  if rule == 'per_batch':
    return jnp.where(jnp.broadcast_to(jnp.all(unvisited), log_u.shape), 1.0, gamma)
  return jnp.broadcast_to(jnp.asarray(gamma, log_u.dtype), log_u.shape)


def update_log_u(log_u: Array, log_g: Array, gamma: Array) -> Array:
  """log of (1 - gamma) u + gamma g, all the same shape; exact for u = 0 and gamma = 1."""
  return jnp.logaddexp(jnp.log1p(-gamma) + log_u, jnp.log(gamma) + log_g)


def combine_log_u(log_u: Array, rule: str) -> Array:
  """[B, V] -> [B]: the mean of u over views, or its sum (a defect of older code: 2.25 g at .9)."""
  check_name(COMBINE, rule, 'combine')
  total = jax.nn.logsumexp(log_u, -1)
  return total - jnp.log(log_u.shape[-1]) if rule == 'mean' else total


def estimate(
  scores: Scores,
  log_u: Array,
  *,
  temperature: float | Array = 0.1,
  gamma: float | Array = 0.9,
  eps: float = 1e-8,
) -> SogCLR:
  """SogCLR's estimator for any positives and negatives of V anchors an example.

  g = mean over the negatives of exp(s/T); u <- (1 - gamma) u + gamma g; w = sg(exp(s/T) / max(u,
  eps)); an anchor's loss is -s_pos + mean w s, an example's the sum over its anchors. Similarities
  are not divided by T: the gradient is T times InfoNCE's in scale. No gradient flows through w, u,
  g. All of u is kept as a logarithm: exp(s/T) itself overflows float32 below T = 0.0113.

  Args:
    scores: cosines, positive [B, V] and negative [B, V, K].
    log_u: [B], log of the stored u of these examples, -inf = unvisited.
    temperature: scalar, or [B] for one temperature each (iSogCLR).
    gamma: scalar or [B], weight of the new value (see `first_visit_gamma`).
    eps: floor of u inside the weights, 1e-8 in LibAUC, 0 elsewhere.
  """
  positive, negative, where = scores.positive, scores.negative, scores.mask

  def per_anchor(x):  # scalar or [B] -> [B, V]
    x = jnp.broadcast_to(jnp.asarray(x, positive.dtype), log_u.shape)
    return jnp.broadcast_to(x[:, None], positive.shape)

  tau, count = per_anchor(temperature), jnp.sum(where, -1)
  fixed = jax.lax.stop_gradient(negative / tau[..., None])
  log_g = logsumexp(fixed, where) - jnp.log(count)
  new_log_u = update_log_u(per_anchor(log_u), log_g, per_anchor(gamma))
  floor = jnp.maximum(new_log_u, jnp.log(eps))[..., None]
  weight = jnp.where(where, jnp.exp(jnp.where(where, fixed - floor, 0.0)), 0.0)
  weight = jax.lax.stop_gradient(weight)  # as a whole: nor through log_u or the temperature
  pushed = jnp.sum(weight * negative, -1) / count
  return SogCLR(
    per_example=jnp.sum(pushed - positive, -1),
    log_u=new_log_u,
    objective=tau * new_log_u - jax.lax.stop_gradient(positive),
  )


def sogclr(
  z: Array,
  log_u: Array,
  *,
  temperature: float | Array = 0.1,
  gamma: float | Array = 0.9,
  eps: float = 1e-8,
  normalize: bool = True,
) -> SogCLR:
  """Global contrastive loss, unimodal (Yuan et al., https://arxiv.org/abs/2202.12387, alg. 1).

  `estimate` with both views of all other samples as an anchor's negatives, m = 2 (B - 1) of them.
  Gradients flow through both factors of every product.

  Args:
    z: [B, 2, D], B >= 2.
    log_u, temperature, gamma, eps: as for `estimate`.
    normalize: False if the rows are unit vectors already.
  """
  scores = two_view_scores(unit(z) if normalize else widen(z))
  return estimate(scores, log_u, temperature=temperature, gamma=gamma, eps=eps)
