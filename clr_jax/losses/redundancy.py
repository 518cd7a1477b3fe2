"""Losses without negatives that decorrelate the features: Barlow Twins, VICReg, TiCo.

Statistics cover the global batch. Embeddings of Barlow Twins and VICReg are [B, 2, D], B >= 2, and
never normalized per row; TiCo's are unit rows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.ops.similarity import at_least_float32, l2_normalize, similarity


def cross_correlation(z: Array, *, eps: float = 1e-5) -> Array:
  """Correlation [D, D] of view 1's features with view 2's, each standardized over the batch.

  Args:
    z: [B, 2, D].
    eps: added to the biased variance, as BatchNorm does (the official code; the paper's pseudo-code
      divides by the unbiased deviation).

  Example:
    >>> z = jnp.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])[:, None].repeat(2, 1)
    >>> print(cross_correlation(z).round(2))
    [[1. 0.]
     [0. 1.]]
  """
  z = at_least_float32(z)
  z = (z - z.mean(0, keepdims=True)) * jax.lax.rsqrt(z.var(0, keepdims=True) + eps)
  return similarity(z[:, 0].T, z[:, 1].T) / len(z)


def barlow_twins(z: Array, *, off_diagonal_weight: float = 0.0051) -> Array:
  """sum_i (c_ii - 1)^2 + weight sum_{i != j} c_ij^2 of the cross-correlation c; a scalar.

  Zbontar et al., https://arxiv.org/abs/2103.03230, eq. 1.

  Args:
    z: [B, 2, D].
    off_diagonal_weight: lambda = 0.0051 (official code).

  Example:
    >>> z = jnp.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])[:, None].repeat(2, 1)
    >>> print(f'{barlow_twins(z):.3f}')  # equal views, uncorrelated features
    0.000
  """
  c = cross_correlation(z)
  diagonal = jnp.diagonal(c)
  return jnp.sum((diagonal - 1) ** 2) + off_diagonal_weight * _off_diagonal(c)


class VICReg(NamedTuple):
  """The three unweighted terms, scalars."""

  invariance: Array
  variance: Array
  covariance: Array


def vicreg(z: Array, *, variance_average: bool = True) -> VICReg:
  """Terms of VICReg (Bardes et al., https://arxiv.org/abs/2105.04906, eq. 1 to 6).

  invariance = mean (z1 - z2)^2; variance = mean_d max(0, 1 - sqrt(var_d + 1e-4)), averaged over
  the views; covariance = squared off-diagonal entries of both views' covariances, over D.
  Variance and covariance divide by B - 1.

  Args:
    z: [B, 2, D].
    variance_average: True averages over the views (official code); False sums them (the paper's
      equation, solo-learn).

  Example:
    >>> z = jnp.array([[2.0, 2.0], [-2.0, -2.0]])[:, None].repeat(2, 1)  # one feature, twice
    >>> print(*(f'{term:.1f}' for term in vicreg(z)))  # its variance is large enough
    0.0 0.0 128.0
  """
  z = at_least_float32(z)
  centered = z - z.mean(0, keepdims=True)
  products = jnp.einsum('bvd,bve->vde', centered, centered, precision=jax.lax.Precision.HIGHEST)
  deviation = jnp.sqrt(jnp.var(z, 0, ddof=1) + 1e-4)
  variance = jax.nn.relu(1 - deviation).mean(-1)
  return VICReg(
    invariance=jnp.mean((z[:, 0] - z[:, 1]) ** 2),
    variance=variance.mean() if variance_average else variance.sum(),
    covariance=_off_diagonal(products / (len(z) - 1)) / z.shape[-1],
  )


class TiCo(NamedTuple):
  """The two unweighted terms, scalars, and the moving average [D, D] for the next step."""

  invariance: Array
  contrast: Array
  covariance: Array


def tico(
  online: Array,
  target: Array,
  covariance: Array,
  *,
  beta: float = 0.9,
  detach_covariance: bool = True,
) -> TiCo:
  """Terms of TiCo (Zhu et al., https://arxiv.org/abs/2206.10698), on unit rows z, z' [B, D].

  C = beta C_before + (1 - beta) z^T z / B, not centered; invariance = mean 1 - z.z';
  contrast = mean z^T C z.

  Args:
    online, target: [B, D], any length; no gradient is stopped here.
    covariance: [D, D], C_before; zeros at first.
    beta: weight of C_before; .9 (TiCo-pytorch, github.com/sayannag; lightly's TiCoLoss).
    detach_covariance: True, C is a constant, as in lightly since its pull request 1484 and in the
      paper's figure of the algorithm; False, the gradient flows through the batch's own term of C
      too, as in TiCo-pytorch.

  Example:
    >>> z = jnp.eye(2)
    >>> found = tico(z, z, jnp.zeros([2, 2]))
    >>> print(f'{found.invariance:.3f} {found.contrast:.3f}')
    0.000 0.050
  """
  z, other = l2_normalize(online), l2_normalize(target)
  moment = similarity(z.T, z.T) / len(z)
  batch = jax.lax.stop_gradient(moment) if detach_covariance else moment
  covariance = beta * at_least_float32(covariance) + (1 - beta) * batch
  return TiCo(
    invariance=jnp.mean(1 - jnp.sum(z * other, -1)),
    contrast=jnp.sum(covariance * moment),  # = mean z^T C z
    covariance=covariance,
  )


def _off_diagonal(matrices: Array) -> Array:
  """Sum of squared off-diagonal entries of [..., D, D]; masked, since subtraction would cancel."""
  return jnp.sum(jnp.where(jnp.eye(matrices.shape[-1], dtype=bool), 0.0, matrices**2))
