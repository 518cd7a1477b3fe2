"""SogCLR: contrastive loss against the whole data set through per-example moving averages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from clr_jax.core.names import check_name
from clr_jax.core.types import Array
from clr_jax.losses.scores import Scores, pair_scores, two_view_scores, view_major
from clr_jax.ops.blocked import scan_columns
from clr_jax.ops.similarity import at_least_float32, flatten_views, l2_normalize, logsumexp

FirstVisit = Literal['per_index', 'per_batch', 'none']
Combine = Literal['mean', 'sum']


class SogCLR(NamedTuple):
  """Result of SogCLR's estimator.

  Attributes:
    per_example: [B], the surrogate whose gradient is the estimator's; may be negative.
    log_u: [B, 2], the new log u of each view.
    objective: [B, 2], T log u - s_pos, which training minimizes (for logging).
  """

  per_example: Array
  log_u: Array
  objective: Array


def first_visit_gamma(log_u: Array, gamma: float | Array, rule: FirstVisit) -> Array:
  """Weight [B] of the new value of u: 1 for examples that were never visited.

  Args:
    log_u: [B] old log u, -inf = unvisited.
    gamma: configured weight, in (0, 1].
    rule: 'per_index' (1 for each unvisited row), 'per_batch' (1 for all rows if none was visited;
      SogCLR for ImageNet, LibAUC) or 'none' (SogCLR for CIFAR).

  Example:
    >>> first_visit_gamma(jnp.array([-jnp.inf, 0.5]), 0.75, 'per_index').tolist()
    [1.0, 0.75]
  """
  check_name(get_args(FirstVisit), rule, 'first visit rule')
  unvisited = jnp.isneginf(log_u)
  if rule == 'per_index':
    return jnp.where(unvisited, 1.0, gamma)
  if rule == 'per_batch':
    return jnp.where(jnp.broadcast_to(jnp.all(unvisited), log_u.shape), 1.0, gamma)
  return jnp.broadcast_to(jnp.asarray(gamma, log_u.dtype), log_u.shape)


def update_log_u(log_u: Array, log_g: Array, gamma: Array) -> Array:
  """log((1 - gamma) u + gamma g), all of the same shape; exact for u = 0 and gamma = 1."""
  return jnp.logaddexp(jnp.log1p(-gamma) + log_u, jnp.log(gamma) + log_g)


def combine_log_u(log_u: Array, rule: Combine) -> Array:
  """[B, V] -> [B]: the mean of u over views, or its sum (a defect of older code: 2.25 g at .9).

  Example:
    >>> print(combine_log_u(jnp.log(jnp.array([[1.0, 3.0]])), 'mean').round(2))  # log 2
    [0.69]
  """
  check_name(get_args(Combine), rule, 'combine')
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
  """SogCLR's estimator for any positives and negatives of V anchors per example.

  g = mean over the negatives of exp(s/T); u <- (1 - gamma) u + gamma g; w = sg(exp(s/T) / max(u,
  eps)); an anchor's loss is -s_pos + mean w s, an example's the sum over its anchors. Similarities
  are not divided by T: the gradient is T times InfoNCE's in scale. No gradient flows through w, u,
  g. All of u is kept as a logarithm: exp(s/T) itself overflows float32 below T = 0.0113.

  Args:
    scores: cosines, positive [B, V] and negative [B, V, K].
    log_u: [B], log of the stored u of these examples, -inf = unvisited.
    temperature: scalar, or [B] for one temperature per example (iSogCLR).
    gamma: scalar or [B], weight of the new value (see `first_visit_gamma`).
    eps: floor of u inside the weights, 1e-8 in LibAUC, 0 elsewhere.
  """
  negative, where = scores.negative, scores.mask
  against = _Negatives(
    jnp.sum(where, -1),
    lambda tau: logsumexp(_fixed(negative, tau), where),
    lambda tau, new_log_u: _pushed(negative, where, tau, new_log_u, eps),
  )
  return _estimate(scores.positive, against, log_u, temperature, gamma)


class _Negatives(NamedTuple):
  """Sums over the negatives of anchors [B, V], computed at once or in blocks.

  Attributes:
    count: number of negatives; [B, V] or [].
    log_sum: tau [B, V] -> log sum exp(s / tau), without gradient.
    pushed: (tau, log u) -> sum of w s.
  """

  count: Array
  log_sum: Callable[[Array], Array]
  pushed: Callable[[Array, Array], Array]


def _estimate(positive, against: _Negatives, log_u, temperature, gamma) -> SogCLR:
  def per_anchor(x):  # scalar or [B] -> [B, V]
    x = jnp.broadcast_to(jnp.asarray(x, positive.dtype), log_u.shape)
    return jnp.broadcast_to(x[:, None], positive.shape)

  tau = per_anchor(temperature)
  log_g = against.log_sum(tau) - jnp.log(against.count)
  new_log_u = update_log_u(per_anchor(log_u), log_g, per_anchor(gamma))
  pushed = against.pushed(tau, new_log_u) / against.count
  return SogCLR(
    per_example=jnp.sum(pushed - positive, -1),
    log_u=new_log_u,
    objective=tau * new_log_u - jax.lax.stop_gradient(positive),
  )


def _negatives_in_blocks(z: Array, eps: float, block_size: int) -> _Negatives:
  """Negatives of unit rows z [B, 2, D]: both views of all other samples, in blocks of rows."""
  size = len(z)
  anchors, rows = flatten_views(z), view_major(z)
  sample = jnp.arange(len(anchors)) // 2

  def scan(terms):
    def of_others(cosine, column):
      return terms(cosine, (column % size)[None, :] != sample[:, None])

    return scan_columns(anchors, rows, of_others, block_size=block_size)

  def log_sum(tau):
    flat = tau.reshape(-1)
    found, _ = scan(lambda cosine, where: (_fixed(cosine, flat), where, {}))
    return jax.lax.stop_gradient(found).reshape(tau.shape)

  def pushed(tau, log_u):
    flat = tau.reshape(-1), log_u.reshape(-1)

    def terms(cosine, where):
      return cosine[:, :0], where[:, :0], {'pushed': _pushed(cosine, where, *flat, eps)}

    return scan(terms)[1]['pushed'].reshape(tau.shape)

  return _Negatives(jnp.asarray(2.0 * (size - 1)), log_sum, pushed)


def _fixed(negative: Array, tau: Array) -> Array:
  return jax.lax.stop_gradient(negative / tau[..., None])


def _pushed(negative: Array, where: Array, tau: Array, log_u: Array, eps: float) -> Array:
  """Sum of w s over the negatives; w carries no gradient, not even to log_u or the temperature."""
  floor = jnp.maximum(log_u, jnp.log(eps))[..., None]
  weight = jnp.exp(jnp.where(where, _fixed(negative, tau) - floor, 0.0))
  return jnp.sum(jax.lax.stop_gradient(jnp.where(where, weight, 0.0)) * negative, -1)


def sogclr(
  z: Array,
  log_u: Array,
  *,
  temperature: float | Array = 0.1,
  gamma: float | Array = 0.9,
  eps: float = 1e-8,
  normalize: bool = True,
  block_size: int | None = None,
) -> SogCLR:
  """Global contrastive loss, unimodal (Yuan et al., https://arxiv.org/abs/2202.12387, alg. 1).

  `estimate` with both views of all other samples as an anchor's negatives, m = 2 (B - 1) of them.
  Gradients flow through both factors of every product.

  Args:
    z: [B, 2, D], B >= 2.
    log_u, temperature, gamma, eps: as for `estimate`.
    normalize: False if the rows are unit vectors already.
    block_size: None, or a divisor of 2 B: columns of the similarities computed at a time and not
      stored (`clr_jax.ops.blocked`).

  Example:
    >>> z = jnp.eye(4).reshape(2, 2, 4)
    >>> found = sogclr(z, jnp.full([2], -jnp.inf), gamma=jnp.ones([2]))
    >>> found.log_u.tolist()  # u is the mean of exp(0)
    [[0.0, 0.0], [0.0, 0.0]]
  """
  z = l2_normalize(z) if normalize else at_least_float32(z)
  if block_size is not None:
    positive = pair_scores(z, z[:, ::-1])
    against = _negatives_in_blocks(z, eps, block_size)
    return _estimate(positive, against, log_u, temperature, gamma)
  return estimate(two_view_scores(z), log_u, temperature=temperature, gamma=gamma, eps=eps)
