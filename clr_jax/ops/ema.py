"""Exponential moving average of parameters: the target network of BYOL, MoCo, DINO, ..."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clr_jax.core.types import PyTree


def copy(online: PyTree) -> PyTree:
  """Copies `online` to new buffers: both trees are donated to the train step."""
  return jax.tree.map(lambda x: jnp.array(x, copy=True), online)


def update(target: PyTree, online: PyTree, momentum: float | jax.Array) -> PyTree:
  """Computes momentum * target + (1 - momentum) * online, leaf by leaf, in float32 or wider.

  As in the reference implementations (MoCo, BYOL, DINO), only parameters are averaged; the target
  network has its own batch statistics.

  Args:
    target: the average so far; the result has its structure and dtypes.
    online: a tree of the same structure.
    momentum: in [0, 1]; 1 freezes the target, 0 copies.
  """

  def average(old, new):
    # In bfloat16 .999 rounds to 1 and the target would never change.
    wide = jnp.promote_types(old.dtype, jnp.float32)
    weight = jnp.asarray(momentum, wide)
    return (weight * old.astype(wide) + (1 - weight) * new.astype(wide)).astype(old.dtype)

  return jax.tree.map(average, target, online)
