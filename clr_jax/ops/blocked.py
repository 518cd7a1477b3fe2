"""Sums over the columns of a similarity matrix that is never stored as a whole."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array
from clr_jax.ops.similarity import NEG_INF, similarity

Sums = dict[str, Array]
# (cosines [A, C], their columns [C]) -> (values [A, K], where [A, K], sums of the columns {: [A]}).
Terms = Callable[[Array, Array], tuple[Array, Array, Sums]]


def scan_columns(
  anchor: Array, contrast: Array, terms: Terms, *, block_size: int
) -> tuple[Array, Sums]:
  """Log-sum-exp and sums over the columns of `anchor @ contrast^T`, `block_size` at a time.

  Keeps a running log-sum-exp; the backward pass recomputes each block (`jax.checkpoint`), so value
  and gradient need the memory of a few [A, block_size] blocks. Across devices the anchors stay
  sharded and the contrast rows are gathered.

  Args:
    anchor: [A, D].
    contrast: [M, D], M a multiple of block_size.
    terms: function that computes the values of a block and the terms to sum; `values` may be
      [A, 0].
    block_size: columns per block.

  Returns:
    (log sum exp [A] of the values where `where` is True, -inf if there are none; the sums).
  """
  if len(contrast) % block_size:
    raise ValueError(f'block_size={block_size} does not divide {len(contrast)} rows')

  def add(total, block):
    peak, scaled, sums = total
    rows, column = block
    values, where, more = terms(similarity(anchor, rows), column)
    new_peak = jnp.maximum(peak, jnp.max(values, -1, initial=NEG_INF, where=where))
    new_peak = jax.lax.stop_gradient(new_peak)
    finite = jnp.where(jnp.isfinite(new_peak), new_peak, 0.0)
    # Select before exp, or the gradient of a masked entry would contain exp(large).
    shifted = jnp.where(where, values - finite[:, None], 0.0)
    fresh = jnp.sum(jnp.where(where, jnp.exp(shifted), 0.0), -1)
    scale = jnp.where(jnp.isfinite(peak), jnp.exp(peak - finite), 0.0)
    return (new_peak, scaled * scale + fresh, jax.tree.map(jnp.add, sums, more)), None

  def zero_sums() -> Sums:
    block = similarity(anchor, contrast[:block_size])
    _, _, sums = jax.eval_shape(terms, block, jnp.arange(block_size))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)

  nothing = jnp.zeros(len(anchor), anchor.dtype)
  blocks = contrast.reshape(-1, block_size, contrast.shape[-1])
  columns = jnp.arange(len(contrast)).reshape(-1, block_size)
  # No barrier against CSE: a scan's body is not merged with other code anyway.
  add = jax.checkpoint(add, prevent_cse=False)
  (peak, scaled, sums), _ = jax.lax.scan(
    add, (nothing + NEG_INF, nothing, zero_sums()), (blocks, columns)
  )
  empty = scaled == 0
  peak = jnp.where(empty, 0.0, peak)
  return jnp.where(empty, NEG_INF, jnp.log(jnp.where(empty, 1.0, scaled)) + peak), sums
