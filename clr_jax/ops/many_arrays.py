"""Operations on all parameters in few kernels, for accelerators, where small arrays cost launches.

`norms` and `apply_updates` also work array by array: faster on CPUs and for sharded arrays. On TPUs
the norms do, too: a concatenation would be written to memory there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.layout import Layout, with_layout_constraint

from clr_jax.core.types import Array, PyTree

_ROW = 1024  # elements summed in a first pass; each array is padded to whole rows
_MOST = 80  # arrays read by one kernel: XLA fuses up to 96 operands and results


def norms(leaves: Sequence[Array], *, joined: bool = False) -> list[Array]:
  """Euclidean norm of each array, as scalars.

  Args:
    leaves: arrays of any shapes and one dtype.
    joined: True reads up to 80 arrays per kernel by a concatenation that is never stored; the order
      of summation differs.
  """
  if not joined:
    return [jnp.sqrt(jnp.sum(jnp.square(x))) for x in leaves]
  found: list[Array] = []
  for start in range(0, len(leaves), _MOST):
    part = leaves[start : start + _MOST]
    rows = _square_rows(part)
    counts = [-(-x.size // _ROW) for x in part]
    owner = np.repeat(np.arange(len(part), dtype=np.int32), counts)
    own = owner[None, :] == np.arange(len(part), dtype=np.int32)[:, None]
    total = jnp.sqrt(jnp.where(own, rows[None, :], 0).sum(1))
    found += [total[i] for i in range(len(part))]
  return found


def global_norm(tree: PyTree, *, joined: bool = False) -> Array:
  """Euclidean norm of all arrays of `tree` together; see `norms`."""
  if not joined:
    return optax.tree.norm(tree)
  leaves = jax.tree.leaves(tree)
  parts = [_square_rows(leaves[i : i + _MOST]).sum() for i in range(0, len(leaves), _MOST)]
  return jnp.sqrt(sum(parts[1:], parts[0]))


def _square_rows(leaves: Sequence[Array]) -> Array:
  """Sums of squares [R] of `_ROW` elements each; no sum crosses two arrays."""
  padded = [jnp.pad(x.reshape(-1), (0, -x.size % _ROW)) for x in leaves]
  return jnp.square(jnp.concatenate(padded)).reshape(-1, _ROW).sum(1)


def apply_updates(params: PyTree, updates: PyTree, *, joined: bool = False) -> PyTree:
  """params + updates, in the dtypes of the parameters.

  Args:
    params, updates: trees of arrays.
    joined: True updates all arrays of a shape in one kernel. XLA fuses independent operations only
      if they share a non-scalar operand, so each update is multiplied by the same opaque array of
      ones; the results are bit-identical.
  """
  if not joined:
    return optax.apply_updates(params, updates)
  ones: dict[tuple[int, Any], Array] = {}

  def add(p: Array, u: Array) -> Array:
    if u.ndim:
      key = u.shape[-1], u.dtype
      if key not in ones:
        ones[key] = jax.lax.optimization_barrier(jnp.ones(key[:1], u.dtype))
      u = u * jax.lax.broadcast_in_dim(ones[key], u.shape, (u.ndim - 1,))
    return (p + u).astype(p.dtype)

  return jax.tree.map(add, params, updates)


def side_by_side(tree: PyTree) -> PyTree:
  """Returns the arrays so that kernels [H, W, I, O] of one shape are transposed by one GPU kernel.

  XLA's convolutions need them in another order, and so do their gradients. See `apply_updates` for
  the ones that they are multiplied by; bits stay as they are.
  """
  ones: dict[tuple[Any, Any], Array] = {}

  def mark(x: Array) -> Array:
    if x.ndim != 4:
      return x
    key = x.shape, x.dtype
    if key not in ones:
      ones[key] = jax.lax.optimization_barrier(jnp.ones(x.shape[-1:], x.dtype))
    return x * jax.lax.broadcast_in_dim(ones[key], x.shape, (x.ndim - 1,))

  with jax.named_scope('conv_kernels'):
    return jax.tree.map(mark, tree)


def row_major(tree: PyTree) -> PyTree:
  """The same arrays, each matrix or kernel in memory in the order of its axes, as parameters lie.

  The kernel that makes an array is not fused with the kernel that reads it: one that also
  transposes a gradient could not write in place. Vectors have one order and may be fused.
  """
  leaves, structure = jax.tree.flatten(tree)
  ordered = iter(
    jax.lax.optimization_barrier(
      [with_layout_constraint(x, Layout(tuple(range(x.ndim)))) for x in leaves if x.ndim > 1]
    )
  )
  return structure.unflatten([next(ordered) if x.ndim > 1 else x for x in leaves])
