"""Norms, projections and steepest directions per image, for a batch [B, ...]."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from clr_jax.core.types import Array

Norm = Literal['l2', 'linf', 'l1', 'l0', 'linf_source']
"""Norms of a problem; 'linf_source' is 'linf' with another proximal map, see `plb`."""


def flat(x: Array) -> Array:
  """Flattens [B, ...] to [B, n]."""
  return x.reshape(len(x), -1)


def expand_like(value: Array, like: Array) -> Array:
  """Reshapes [B] to [B, 1, ...], to combine with `like` [B, ...]."""
  return value.reshape(-1, *[1] * (like.ndim - 1))


def distance(delta: Array, norm: str) -> Array:
  """Norms [B] of delta [B, ...]; 'l0' counts nonzero entries."""
  size = jnp.abs(flat(delta))
  if norm == 'l2':
    return jnp.sqrt(jnp.sum(size**2, axis=1))
  if norm == 'linf':
    return jnp.max(size, axis=1)
  if norm == 'l1':
    return jnp.sum(size, axis=1)
  return jnp.sum(size > 0, axis=1).astype(size.dtype)


def project(delta: Array, norm: str, radius: Array | float) -> Array:
  """Projects each delta (in l2) onto the 'l2', 'linf' or 'l1' ball of `radius`."""
  if norm == 'l2':
    size = jnp.maximum(distance(delta, 'l2'), jnp.finfo(delta.dtype).tiny)
    return delta * expand_like(jnp.minimum(1, radius / size), delta)
  if norm == 'linf':
    return jnp.clip(delta, -radius, radius)
  inside = distance(delta, 'l1') <= radius
  return jnp.where(expand_like(inside, delta), delta, onto_l1_sphere(delta, radius))


def onto_l1_sphere(delta: Array, radius: Array | float) -> Array:
  """Soft-thresholds to |.|_1 = radius; from inside the ball nonzero entries grow.

  From outside this is the projection onto the ball (Duchi et al., "Efficient projections onto the
  l1-ball", ICML 2008, figure 1).
  """
  size = jnp.abs(flat(delta))
  descending = jnp.flip(jnp.sort(size, axis=1), axis=1)
  excess = jnp.cumsum(descending, axis=1) - radius
  count = jnp.arange(1, size.shape[1] + 1, dtype=size.dtype)[None]
  kept = jnp.maximum(jnp.sum(descending * count > excess, axis=1), 1)
  threshold = jnp.take_along_axis(excess, kept[:, None] - 1, axis=1) / kept[:, None]
  return jnp.sign(delta) * jnp.maximum(size - threshold, 0).reshape(delta.shape)


def steepest(gradient: Array, norm: str) -> Array:
  """Direction of unit norm ('l2' or 'linf') that raises a loss most; 0 where the gradient is 0.

  The gradient's scale does not matter, even below 1e-12, where foolbox and torchattacks shrink the
  l2 step, which makes confident networks look robust.
  """
  if norm == 'linf':
    return jnp.sign(gradient)
  tiny = jnp.finfo(gradient.dtype).tiny
  scaled = gradient / expand_like(jnp.maximum(distance(gradient, 'linf'), tiny), gradient)
  return scaled / expand_like(jnp.maximum(distance(scaled, 'l2'), tiny), scaled)
