"""Whitening of batches: by Cholesky factors, with gradient (W-MSE); by eigenvectors (ARB)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from clr_jax.core.types import Array
from clr_jax.ops.similarity import at_least_float32

_HIGHEST = jax.lax.Precision.HIGHEST


def permutations(key: Array, count: int, size: int) -> Array:
  """Independent random orders of 0..size-1, [count, size] int32."""
  return jax.vmap(lambda k: jax.random.permutation(k, size))(jax.random.split(key, count))


def cholesky_whiten(x: Array, *, eps: float = 0.0) -> Array:
  """Whitens rows [..., n, D] to mean 0 and unbiased covariance I (if eps = 0): L^-1 (x - mean).

  L is the lower Cholesky factor of (1 - eps) C + eps I, float32 or wider. n <= D makes C singular
  for eps = 0; a failed factorization gives NaN instead of raising.
  Siarohin et al., https://arxiv.org/abs/1806.00420, as in W-MSE (https://arxiv.org/abs/2007.06346).
  """
  x = at_least_float32(x)
  x = x - x.mean(-2, keepdims=True)
  covariance = jnp.einsum('...nd,...ne->...de', x, x, precision=_HIGHEST) / (x.shape[-2] - 1)
  identity = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), covariance.shape)
  factor = jnp.linalg.cholesky((1 - eps) * covariance + eps * identity)
  return jnp.swapaxes(solve_triangular(factor, jnp.swapaxes(x, -1, -2), lower=True), -1, -2)


def whiten_chunks(z: Array, permutation: Array, *, size: int, eps: float = 0.0) -> Array:
  """Whitens chunks of `size` permuted rows, each view separately; keeps the original order.

  Args:
    z: [B, V, D], B a multiple of `size`.
    permutation: [B] int.
    size: rows per chunk, more than D unless eps > 0.
    eps: shrinkage, see `cholesky_whiten`.
  """
  chunks = z[permutation].reshape(-1, size, *z.shape[1:]).swapaxes(1, 2)  # [chunk, V, size, D]
  whitened = cholesky_whiten(chunks, eps=eps).swapaxes(1, 2).reshape(z.shape)
  return whitened[jnp.argsort(permutation)]


def orthonormal_base(x: Array, *, shrinkage: float = 0.0, eps: float = 1e-5) -> Array:
  """The orthonormal rows nearest to standardized features x [..., K, n]: C^{-1/2} x, no gradient.

  C = x x^T / (n - 1), shrunk to (1 - shrinkage) C + shrinkage I; `eps` is added to its eigenvalues,
  so that with K >= n the missing directions stay 0. Computes in float32 or wider, as `eigh` needs.
  """
  x = jax.lax.stop_gradient(at_least_float32(x))
  c = jnp.einsum('...kn,...ln->...kl', x, x, precision=_HIGHEST) / (x.shape[-1] - 1)
  identity = jnp.broadcast_to(jnp.eye(x.shape[-2], dtype=x.dtype), c.shape)
  c = (1 - shrinkage) * c + shrinkage * identity
  values, vectors = jnp.linalg.eigh(c)
  scale = jax.lax.rsqrt(jnp.maximum(values, 0.0) + eps)
  projected = jnp.einsum('...ki,...kn->...in', vectors, x, precision=_HIGHEST)
  return jnp.einsum('...ki,...in->...kn', vectors, scale[..., None] * projected, precision=_HIGHEST)
