"""Losses that pull views together and avoid collapse without negatives: W-MSE, ARB.

Embeddings are [B, V, D].
"""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from clr_jax.core.names import check_name
from clr_jax.core.types import Array
from clr_jax.ops.similarity import at_least_float32, l2_normalize
from clr_jax.ops.whitening import orthonormal_base, whiten_chunks


def embedding_std(z: Array) -> Array:
  """Collapse monitor of SimSiam (figure 2): near 1 / sqrt(D) is healthy, 0 collapsed; a scalar.

  The unbiased deviation of l2_normalize(z) over the batch, averaged over features and views.

  Example:
    >>> z = jnp.array([[1.0, 0.0], [-1.0, 0.0]])[:, None]
    >>> print(f'{embedding_std(z):.4f}')  # sqrt 2 in one of two features
    0.7071
  """
  return jnp.std(l2_normalize(jax.lax.stop_gradient(z)), 0, ddof=1).mean()


class WMSE(NamedTuple):
  """Result of `w_mse`.

  Attributes:
    loss: a scalar.
    failed: number of whitened chunks of a view that contain NaN or infinity.
  """

  loss: Array
  failed: Array


def w_mse(
  z: Array,
  permutations: Array,
  *,
  size: int,
  eps: float = 0.0,
  normalize: bool = True,
  symmetric: bool = True,
) -> WMSE:
  """Mean squared distance of whitened views (Ermolov et al., https://arxiv.org/abs/2007.06346).

  Averaged over whitening iterations, pairs of views and images; without `normalize` over features
  too. The gradient flows through both views and the whitening.

  Args:
    z: [B, V, D].
    permutations: [R, B] int, one for each whitening iteration, shared by the views.
    size: number of rows whitened together; divides B, exceeds D unless eps > 0.
    eps: shrinkage of `clr_jax.ops.whitening.cholesky_whiten`; 0 (official code).
    normalize: compare whitened rows of length 1, 2 - 2 cos (official code).
    symmetric: False stops the gradient to the later view of each pair of normalized rows
      (solo-learn): the same value.

  Example:
    >>> z = jax.random.normal(jax.random.key(0), [8, 1, 2]).repeat(2, 1)  # equal views
    >>> print(w_mse(z, jnp.arange(8)[None], size=8).loss.round(2))
    0.0
  """
  whitened = jax.vmap(lambda order: whiten_chunks(z, order, size=size, eps=eps))(permutations)
  first = l2_normalize(whitened) if normalize else whitened
  second = first if symmetric or not normalize else jax.lax.stop_gradient(first)
  pairs = list(itertools.combinations(range(z.shape[1]), 2))
  distances = []
  for i, j in pairs:
    a, b = first[:, :, i], second[:, :, j]
    distances.append(2 - 2 * jnp.sum(a * b, -1) if normalize else (a - b) ** 2)
  failed = (~jnp.isfinite(whitened)).any(-1).sum() / size
  return WMSE(jnp.mean(jnp.stack(distances)), failed)


Divisor = Literal['batch', 'feature']


def arb(
  z: Array,
  permutation: Array | None = None,
  *,
  groups: int = 1,
  shrinkage: float = 1e-4,
  divisor: Divisor = 'batch',
) -> Array:
  """Align with the nearest orthonormal base (Zhang et al., ARB, ECCV 2022).

  Each feature of a view, standardized over the batch, is compared with the same feature of the
  other view's orthonormal base, without gradient to the base:
  sum over features and views of (dot product / divisor - 1)^2; a scalar.

  Args:
    z: [B, 2, D].
    permutation: [D] int, order of the features before they are cut into groups, or None.
    groups: number of blocks of D / groups features, each with its own base; a base of B or more
      features has at most rank B - 1.
    shrinkage: 1e-4 (official CIFAR code), 0 (its ImageNet code).
    divisor: 'batch' = B; 'feature' = D (official CIFAR code; equal for its D = B = 256).

  Example:
    >>> z = jnp.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])[:, None].repeat(2, 1)
    >>> bool(arb(z) < arb(z.at[:, 1].multiply(-1)))  # views that agree
    True
  """
  features = standardized_features(z, permutation)
  num_features, batch_size = features.shape[1:]
  bases = orthonormal_base(
    features.reshape(2, groups, -1, batch_size), shrinkage=shrinkage
  ).reshape(features.shape)
  check_name(get_args(Divisor), divisor, 'divisor')
  count = batch_size if divisor == 'batch' else num_features
  correlation = jnp.sum(features * bases[::-1], -1) / count
  return jnp.sum((correlation - 1) ** 2)


def standardized_features(z: Array, permutation: Array | None = None) -> Array:
  """[B, V, D] -> [V, D, B]: (z - mean) / (unbiased deviation + 1e-5) over the batch, reordered."""
  features = jnp.moveaxis(at_least_float32(z), 0, -1)
  # The floor is below any deviation that matters and keeps a constant feature's gradient finite.
  deviation = jnp.sqrt(jnp.maximum(features.var(-1, ddof=1, keepdims=True), 1e-24))
  features = (features - features.mean(-1, keepdims=True)) / (deviation + 1e-5)
  return features if permutation is None else features[:, permutation]
