"""Sums over all columns of a similarity matrix that is never there as a whole."""

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

  A running log-sum-exp; the backward pass computes each block again (`jax.checkpoint`), so that
  memory for value and gradient is that of a few [A, block_size] blocks. Over devices the anchors
  stay split and the contrast rows are gathered.

  Args:
    anchor: [A, D].
    contrast: [M, D], M a multiple of block_size.
    terms: what to add up of a block; `values` may be [A, 0].
    block_size: columns at a time.

  Returns:
    (log sum exp of the values where `where` holds [A], -inf without any; the sums).
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
    # where before exp: the gradient of a masked entry must not see exp(large).
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
  # Not across iterations: a scan's body is not merged with others anyway.
  add = jax.checkpoint(add, prevent_cse=False)
  (peak, scaled, sums), _ = jax.lax.scan(
    add, (nothing + NEG_INF, nothing, zero_sums()), (blocks, columns)
  )
  empty = scaled == 0
  peak = jnp.where(empty, 0.0, peak)
  return jnp.where(empty, NEG_INF, jnp.log(jnp.where(empty, 1.0, scaled)) + peak), sums
