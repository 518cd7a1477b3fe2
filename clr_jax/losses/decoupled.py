"""Losses that treat the positive apart from the negatives: DCL, FlatNCE, debiased, HCL, RPC.

Embeddings are [B, 2, D], two views of B >= 2 images; the negatives of a row are the 2B - 2 rows of
the other images. Per-anchor values are [B, 2]; every loss is the mean over anchors.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.losses.contrastive import pair_masks
from clr_jax.ops.similarity import (
  at_least_float32,
  flatten_views,
  l2_normalize,
  logsumexp,
  similarity,
)

NegativeViews = Literal['both', 'other']


class PairScores(NamedTuple):
  """Similarities over the temperature; rows and columns are b * 2 + v.

  Attributes:
    positive: [A], similarity of each row to its other view.
    scores: [A, A], similarities of all rows.
    negative: [A, A] bool, True for rows of other images.
  """

  positive: Array
  scores: Array
  negative: Array


def pair_scores(z: Array, *, temperature: float | Array, normalize: bool = True) -> PairScores:
  """Computes the scores of [B, 2, D] embeddings, normalized unless `normalize=False`.

  Example:
    >>> z = jnp.eye(4).reshape(2, 2, 4)
    >>> pair_scores(z, temperature=0.5).negative.sum(-1).tolist()
    [2, 2, 2, 2]
  """
  rows = flatten_views(l2_normalize(z) if normalize else at_least_float32(z))
  scores = similarity(rows, rows) / temperature
  pairs = pair_masks(*z.shape[:2])
  positive = jnp.sum(jnp.where(pairs.positive, scores, 0.0), -1)
  return PairScores(positive, scores, pairs.other & ~pairs.positive)


def of_other_view(num_rows: int) -> Array:
  """[A, A] bool, True where row and column b * 2 + v are of different views v."""
  view = jnp.arange(num_rows) % 2
  return view[:, None] != view[None, :]


def dcl(
  z: Array,
  *,
  temperature: float | Array = 0.1,
  negative_views: NegativeViews = 'both',
  sigma: float | None = None,
  weight_stop_gradient: bool = True,
  normalize: bool = True,
) -> Array:
  """Decoupled contrastive loss per anchor (Yeh et al., https://arxiv.org/abs/2110.06848, eq. 6, 7).

  L_a = -w_a s_ap + log sum over negatives of exp(s_aj): the positive is not in the denominator, so
  the value can be negative, and NT-Xent_a = log(1 + exp(L_a)) for w = 1.

  Args:
    z: [B, 2, D], B >= 2.
    temperature: 0.1 (the paper).
    negative_views: 'both' views of the other images are negatives, 2 B - 2 (the paper); 'other'
      only the view that the anchor is not, B - 1 (eq. 1 of the TAMU report on SogCLR).
    sigma: None: w = 1; else DCLW, the weights of `dcl_weights` (0.5 in the paper).
    weight_stop_gradient: the weights are constants (lightly); False as in the first PyTorch code.
    normalize: False if the rows are unit vectors already.

  Returns:
    [B, 2]. The paper's equation sums the two directions: twice the mean.

  Example:
    >>> z = jnp.eye(4).reshape(2, 2, 4)  # log 2
    >>> print(dcl(z).round(2))
    [[0.69 0.69]
     [0.69 0.69]]
  """
  scores = pair_scores(z, temperature=temperature, normalize=normalize)
  positive = scores.positive.reshape(z.shape[:2])
  if sigma is not None:
    weights = dcl_weights(z, sigma=sigma, normalize=normalize)
    positive *= (jax.lax.stop_gradient(weights) if weight_stop_gradient else weights)[:, None]
  negative = scores.negative
  if negative_views == 'other':
    negative &= of_other_view(len(negative))
  return logsumexp(scores.scores, negative).reshape(z.shape[:2]) - positive


def dcl_weights(z: Array, *, sigma: float = 0.5, normalize: bool = True) -> Array:
  """DCLW's weight of each image's positive, [B]: 2 - B softmax_b(<z_b1, z_b2> / sigma).

  Example:
    >>> z = jnp.eye(4).reshape(2, 2, 4)
    >>> dcl_weights(z).tolist()
    [1.0, 1.0]
  """
  z = l2_normalize(z) if normalize else at_least_float32(z)
  return 2 - len(z) * jax.nn.softmax(jnp.sum(z[:, 0] * z[:, 1], -1) / sigma)


def flatnce(z: Array, *, temperature: float | Array = 0.1) -> Array:
  """FlatNCE per anchor [B, 2] (Chen et al., https://arxiv.org/abs/2107.01152).

  The objective exp(v - stop_gradient(v)), v = DCL_a, always has the value 1 and the gradient of v.
  This version has the same gradient and the value of InfoNCE, log(1 + exp(v)), and cannot overflow.

  Args:
    z: [B, 2, D], B >= 2, normalized inside.
    temperature: 0.1 (official code).

  Example:
    >>> z = jnp.eye(4).reshape(2, 2, 4)  # log(1 + 2)
    >>> print(flatnce(z).round(2))
    [[1.1 1.1]
     [1.1 1.1]]
  """
  v = dcl(z, temperature=temperature)
  return v + jax.lax.stop_gradient(jax.nn.softplus(v) - v)


class Debiased(NamedTuple):
  """Result of `hcl`, both [B, 2].

  Attributes:
    per_anchor: the loss.
    clamped: True where the estimate of the negatives is at its lower bound, without gradient.
  """

  per_anchor: Array
  clamped: Array


def hcl(
  z: Array,
  *,
  temperature: float | Array = 0.5,
  tau_plus: float = 0.1,
  beta: float = 1.0,
  normalize: bool = True,
) -> Debiased:
  """Contrastive loss with hard, debiased negatives (Robinson et al., https://arxiv.org/abs/2010.04592).

  L_a = log(1 + Ng_a / exp(s_ap)), Ng_a = (R_a - tau_plus n exp(s_ap)) / (1 - tau_plus), at least
  n exp(-1 / T), with R_a = sum_j w_j exp(s_aj) / mean_j w_j over the n = 2B - 2 negatives and
  w_j = exp(beta s_aj), through which the gradient flows (official code). beta = 0 is the debiased
  loss (Chuang et al., https://arxiv.org/abs/2007.00224); with tau_plus = 0 too, NT-Xent.

  Args:
    z: [B, 2, D], B >= 2.
    temperature: 0.5 (official code of both).
    tau_plus: prior probability of the anchor's class in [0, 1); 0.1 (official code).
    beta: hardness, >= 0; 1 was best on STL-10 (official README).
    normalize: False if the rows are unit vectors already.

  Example:
    >>> z = jnp.eye(4).reshape(2, 2, 4)
    >>> print(hcl(z, tau_plus=0.0, beta=0.0).per_anchor.round(2))  # NT-Xent's log 3
    [[1.1 1.1]
     [1.1 1.1]]
  """
  scores = pair_scores(z, temperature=temperature, normalize=normalize)
  log_count = math.log(2 * len(z) - 2)
  hard = logsumexp((1 + beta) * scores.scores, scores.negative)
  log_sum = hard - logsumexp(beta * scores.scores, scores.negative) + log_count
  # log(R - tau_plus n e^s), computed in the log domain: relative error 1e-5 in float32.
  excess = jnp.log(tau_plus) + log_count + scores.positive - log_sum
  valid = excess < 0
  difference = log_sum + jnp.log(-jnp.expm1(jnp.where(valid, excess, -1.0)))
  log_negatives = jnp.where(valid, difference, -jnp.inf) - math.log1p(-tau_plus)
  floor = log_count - 1 / temperature
  clamped = log_negatives < floor
  per_anchor = jax.nn.softplus(jnp.where(clamped, floor, log_negatives) - scores.positive)
  return Debiased(per_anchor.reshape(z.shape[:2]), clamped.reshape(z.shape[:2]))


def rpc(
  z: Array,
  *,
  temperature: float | Array = 128.0,
  alpha: float = 0.0,
  beta: float = 0.001,
  gamma: float = 1.0,
  normalize: bool = False,
) -> Array:
  """Relative predictive coding (Tsai et al., https://arxiv.org/abs/2103.11275): -`rpc_objective`.

  Args:
    z: [B, 2, D], B >= 2; not normalized, since no exponential needs bounded scores.
    temperature: 128 on CIFAR, 32 on ImageNet; rescales alpha against beta and gamma.
    alpha: weight of the negatives' mean score; 0 (official CIFAR script).
    beta: weight of the positives' squared score, 0.001 (official CIFAR script); a positive weight
      bounds the scores of the positives.
    gamma: weight of the negatives' squared score; 1 (official CIFAR script).

  Returns:
    A scalar.

  Example:
    >>> z = jnp.ones([2, 2, 1])
    >>> print(f'{rpc(z, temperature=1.0):.4f}')  # -(1 - 0.0005) + 0.5
    -0.4995
  """
  scores = pair_scores(z, temperature=temperature, normalize=normalize)
  return -rpc_objective(scores, alpha=alpha, beta=beta, gamma=gamma)


def rpc_objective(scores: PairScores, *, alpha: float, beta: float, gamma: float) -> Array:
  """E_positive[f - beta/2 f^2] - E_negative[alpha f + gamma/2 f^2], to be maximized; a scalar.

  Both means count every pair once (the official code divides by the size of one device's batch).
  """
  positive, f = scores.positive, scores.scores
  negative = jnp.sum(jnp.where(scores.negative, alpha * f + gamma / 2 * f**2, 0.0))
  return jnp.mean(positive - beta / 2 * positive**2) - negative / jnp.sum(scores.negative)
