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


def mean_over_duplicates(index: Array, value: Array) -> Array:
  """Each row's mean of `value` [B] over the rows that share its `index` [B].

  The loader never repeats an index inside a batch; other callers may, and "the last write wins" is
  undefined under XLA. Sorting costs B log B; a [B, B] comparison would cost 17 GB at B = 65,536.
  """
  size = index.shape[0]
  order = jnp.argsort(index, stable=True)
  sorted_index = index[order]
  first = jnp.concatenate([jnp.ones([1], bool), sorted_index[1:] != sorted_index[:-1]])
  segment = jnp.cumsum(first) - 1
  total = jax.ops.segment_sum(value[order], segment, size)
  count = jax.ops.segment_sum(jnp.ones_like(value), segment, size)
  mean = (total / jnp.maximum(count, 1))[segment]
  return jnp.zeros_like(value).at[order].set(mean)


def set_log_mean(table: Array, index: Array, log_value: Array) -> Array:
  """Writes exp(log_value) [B] at `index` [B] of a log table; duplicates store their mean.

  With the table sharded and `index`, `log_value` replicated this compiles to local masked writes.
  """
  peak = jnp.max(log_value)
  peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
  mean = mean_over_duplicates(index, jnp.exp(log_value - peak))
  # A row that is alone keeps its own logarithm: exp and log would round far smaller values away.
  alone = mean_over_duplicates(index, log_value) == log_value
  new = jnp.where(alone, log_value, jnp.log(mean) + peak)
  return table.at[index].set(new.astype(table.dtype))
