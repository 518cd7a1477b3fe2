"""Normalization, similarities and masked log-sum-exp, the basis of every contrastive loss."""

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array

NEG_INF = -jnp.inf


def at_least_float32(x) -> Array:
  """Casts `x` to float32 or wider: losses never compute in half precision."""
  return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def l2_normalize(x: Array) -> Array:
  """`x / max(||x||, 1e-12)` along the last axis, float32 or wider.

  At x = 0 value and gradient are 0, instead of NaN or 1e12 times the incoming gradient. Rows with
  norms above 1e6 are first divided by a power of two, so that neither their square nor the gradient
  overflows float32. The cast comes first: rounding unit vectors to bfloat16 shifts logits by 0.1 at
  temperature 0.07.
  """
  x = at_least_float32(x)
  peak = jax.lax.stop_gradient(jnp.max(jnp.abs(x), -1, keepdims=True))
  large = (peak > 1e6) & jnp.isfinite(peak)
  x = x * jnp.where(large, jnp.exp2(20 - jnp.ceil(jnp.log2(peak))), 1.0)
  square = jnp.sum(x * x, -1, keepdims=True)
  return x * jnp.where(square > 0, jax.lax.rsqrt(jnp.maximum(square, 1e-24)), 0.0)


def similarity(a: Array, b: Array) -> Array:
  """Inner products of rows: [..., M, D] x [..., K, D] -> [..., M, K].

  Uses the highest precision: errors of TF32 or bfloat16 show after division by a temperature.
  """
  return jnp.einsum('...md,...kd->...mk', a, b, precision=jax.lax.Precision.HIGHEST)


def logsumexp(x: Array, where: Array) -> Array:
  """log sum exp over the entries of the last axis where `where` [..., K] is True; -inf if none.

  The maximum is taken over the selected entries only (with a self-similarity among them, all others
  would underflow at small temperatures). The gradient of an empty row is 0.
  """
  masked = jnp.where(where, x, NEG_INF)
  peak = jnp.max(masked, -1, keepdims=True)
  peak = jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0.0))
  # Select before exp, or the gradient of a masked entry would contain exp(large).
  total = jnp.sum(jnp.where(where, jnp.exp(jnp.where(where, x - peak, 0.0)), 0.0), -1)
  empty = total == 0
  return jnp.where(empty, NEG_INF, jnp.log(jnp.where(empty, 1.0, total)) + peak[..., 0])


def flatten_views(z: Array) -> Array:
  """Reshapes [B, V, D] to [B * V, D], row b * V + v: the sharded axis stays in front."""
  return z.reshape(-1, z.shape[-1])
