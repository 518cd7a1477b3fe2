"""Random perturbations of the Square attack, for a batch with one key per image."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.core.types import Array
from clr_jax.evaluation.attacks.norms import distance, expand_like

# Queries, of 10,000, after which the share of changed pixels is halved (supplement of the paper).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def side_of(query: int, queries: int, share: float, size: tuple[int, ...], norm: str) -> int:
  """Side of the square in pixels, at most the image's shorter one; in 'l2' odd and at least 3."""
  at = int(query / queries * 10000)
  share = share / 2 ** sum(at > after for after in _HALVINGS)
  side = round(math.sqrt(share * size[0] * size[1]))
  if norm == 'linf':
    return min(max(side, 1), *size)
  largest = min(size) - 1 + min(size) % 2
  return min(max(side + 1 - side % 2, 3), largest)


def bump(side: int, size: int) -> np.ndarray:
  """Array [size, size] with a square of unit l2 norm in the first corner, half up and half down."""

  def half(height: int) -> np.ndarray:
    values = np.zeros((height, side))
    top, left = height // 2, side // 2
    for ring in range(max(top, left) + 1):
      rows = slice(max(top - ring, 0), top + ring + 1)
      values[rows, max(left - ring, 0) : left + ring + 1] += 1 / (ring + 1) ** 2
    return values / np.linalg.norm(values) if height else values

  values = np.concatenate([half(side // 2), -half(side - side // 2)])
  return np.pad(values / np.linalg.norm(values), (0, size - side)).astype(np.float32)


def starts(keys: Array, images: Array, epsilon: Any, norm: str) -> Array:
  """Starts [B, H, W, C]: vertical stripes of +-epsilon ('linf'), or a 5x5 grid of bumps ('l2')."""
  _, height, width, channels = images.shape
  if norm == 'linf':
    signs = jax.vmap(lambda key: _signs(key, (1, width, channels), images.dtype))(keys)
    return jnp.clip(images + epsilon * signs, 0, 1)
  side = max(min(height, width) // 5, 1)
  tile = jnp.asarray(bump(side, side), images.dtype)
  row, column = jnp.arange(height) // side, jnp.arange(width) // side
  grid = tile[jnp.arange(height) % side][:, jnp.arange(width) % side, None]
  shape = (-(-height // side), -(-width // side), channels)
  signs = jax.vmap(lambda key: _signs(key, shape, images.dtype))(keys)
  return _of_norm(grid[None] * signs[:, row][:, :, column], images, epsilon)


def paint(
  keys: Array, point: Array, images: Array, epsilon: Any, side: Any, shape: Any, norm: str
) -> Array:
  """Paints a square of `side` pixels on each point; `shape` is `bump(side, ...)` for 'l2'."""
  if norm == 'linf':
    painted = functools.partial(_paint_linf, epsilon=epsilon, side=side)
    return jnp.clip(jax.vmap(painted)(keys, point, images), 0, 1)
  shape = jnp.asarray(shape, images.dtype)
  moved = functools.partial(_paint_l2, epsilon=epsilon, side=side, shape=shape)
  return _of_norm(jax.vmap(moved)(keys, point - images), images, epsilon)


def _paint_linf(key: Array, point: Array, image: Array, *, epsilon: Any, side: Any) -> Array:
  where_key, sign_key = jax.random.split(key)
  inside = _window(_corner(where_key, image.shape, side), image.shape, side)
  painted = image + epsilon * _signs(sign_key, (1, 1, image.shape[2]), image.dtype)
  return jnp.where(inside, painted, point)


def _paint_l2(key: Array, delta: Array, *, epsilon: Any, side: Any, shape: Array) -> Array:
  """Adds a bump in one window with the budget of a second window, which becomes empty."""
  first_key, second_key, sign_key, flip_key = jax.random.split(key, 4)
  height, width, channels = delta.shape
  corner = _corner(first_key, delta.shape, side)
  first = _window(corner, delta.shape, side)
  second = _window(_corner(second_key, delta.shape, side), delta.shape, side)

  def unit(value: Array) -> Array:
    return value / (1e-12 + jnp.sqrt(jnp.sum(value**2, axis=(0, 1), keepdims=True)))

  shape = jnp.where(jax.random.bernoulli(flip_key), shape.T, shape)[:height, :width]
  added = jnp.roll(shape, corner, (0, 1))[..., None] * _signs(
    sign_key, (1, 1, channels), shape.dtype
  )
  added = unit(added + unit(jnp.where(first, delta, 0)))
  unused = jnp.maximum(epsilon**2 - jnp.sum(delta**2), 0) / channels
  budget = unused + jnp.sum(jnp.where(first | second, delta, 0) ** 2)
  return jnp.where(first, added * jnp.sqrt(budget), jnp.where(second, 0, delta))


def _of_norm(delta: Array, images: Array, epsilon: Any) -> Array:
  scale = epsilon / jnp.maximum(distance(delta, 'l2'), 1e-12)
  return jnp.clip(images + expand_like(scale, delta) * delta, 0, 1)


def _corner(key: Array, shape: tuple[int, ...], side: Any) -> Array:
  return jax.random.randint(key, (2,), 0, jnp.asarray(shape[:2]) - side + 1)


def _window(corner: Array, shape: tuple[int, ...], side: Any) -> Array:
  """Mask [H, W, 1] of a window."""
  row, column = (jnp.arange(n) - corner[i] for i, n in enumerate(shape[:2]))
  return (((row >= 0) & (row < side))[:, None] & ((column >= 0) & (column < side))[None])[..., None]


def _signs(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
  return jax.random.rademacher(key, shape, dtype)
