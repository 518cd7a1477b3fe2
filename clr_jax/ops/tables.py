"""Per-example tables: one number for each training example, sharded over the devices.

The number of rows does not depend on the device count (a checkpoint restores on any of them), and
values are kept as logarithms with -inf for "never visited".
"""

import jax
import jax.numpy as jnp

from clr_jax.types import Array

ROW_MULTIPLE = 1024


def num_rows(num_examples: int) -> int:
  """`num_examples` rounded up to a multiple of 1024, so that 1 to 1024 devices divide it."""
  return -(-num_examples // ROW_MULTIPLE) * ROW_MULTIPLE


def init_log(num_examples: int, dtype=jnp.float32) -> Array:
  """A table [num_rows] of log 0 = -inf: no example visited."""
  return jnp.full([num_rows(num_examples)], -jnp.inf, dtype)


def log_mean_over_duplicates(index: Array, log_value: Array) -> Array:
  """log of each row's mean of exp(log_value) [B] over the rows that share its `index` [B].

  The loader never repeats an index inside a batch; other callers may, and "the last write wins" is
  undefined under XLA. A row that is alone keeps its bits, and each index has its own shift: values
  from exp(-300) to exp(300) may meet in one batch. Sorting costs B log B; a [B, B] comparison
  would cost 17 GB at B = 65,536.
  """
  size = index.shape[0]
  order = jnp.argsort(index, stable=True)
  sorted_index, value = index[order], log_value[order]
  first = jnp.concatenate([jnp.ones([1], bool), sorted_index[1:] != sorted_index[:-1]])
  segment = jnp.cumsum(first) - 1
  peak = jax.ops.segment_max(value, segment, size)[segment]
  peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
  total = jax.ops.segment_sum(jnp.exp(value - peak), segment, size)
  count = jax.ops.segment_sum(jnp.ones_like(value), segment, size)
  log_mean = jnp.log(total / jnp.maximum(count, 1))[segment] + peak
  return jnp.zeros_like(log_value).at[order].set(log_mean)


def set_log_mean(table: Array, index: Array, log_value: Array) -> Array:
  """Writes exp(log_value) [B] at `index` [B] of a log table; duplicates store their mean.

  With the table sharded and `index`, `log_value` replicated this compiles to local masked writes.
  """
  new = log_mean_over_duplicates(index, log_value)
  return table.at[index].set(new.astype(table.dtype))
