"""Per-example tables: one number per training example, sharded over the devices.

The number of rows does not depend on the number of devices, so that a checkpoint restores on any.
Moving averages are stored as logarithms with -inf for "never visited".

The loader never repeats an index within a batch, but other callers may. Since the order of writes
is undefined under XLA, rows that share an index store their mean.
"""

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array

ROW_MULTIPLE = 1024


def num_rows(num_examples: int) -> int:
  """Rounds `num_examples` up to a multiple of 1024, which any power of two up to 1024 divides."""
  return -(-num_examples // ROW_MULTIPLE) * ROW_MULTIPLE


def init(num_examples: int, value: float, dtype=jnp.float32) -> Array:
  """Table [num_rows] filled with one value."""
  return jnp.full([num_rows(num_examples)], value, dtype)


def init_log(num_examples: int, dtype=jnp.float32) -> Array:
  """Table [num_rows] filled with log 0 = -inf: no example visited."""
  return init(num_examples, -jnp.inf, dtype)


def _groups(index: Array) -> tuple[Array, Array]:
  """(order [B], group [B]): rows sorted by index, and the group of equal indices of each.

  Sorting costs B log B; a [B, B] comparison would cost 17 GB at B = 65,536.
  """
  order = jnp.argsort(index, stable=True)
  ordered = index[order]
  first = jnp.concatenate([jnp.ones([1], bool), ordered[1:] != ordered[:-1]])
  return order, jnp.cumsum(first) - 1


def mean_over_duplicates(index: Array, value: Array) -> Array:
  """Mean of `value` [B] over rows with the same `index` [B]; single rows keep their bits."""
  order, group = _groups(index)
  total = jax.ops.segment_sum(value[order], group, len(index))
  count = jax.ops.segment_sum(jnp.ones_like(value), group, len(index))
  mean = (total / jnp.maximum(count, 1))[group]
  return jnp.zeros_like(value).at[order].set(mean)


def log_mean_over_duplicates(index: Array, log_value: Array) -> Array:
  """Log of the mean of exp(log_value) [B] over rows with the same `index` [B].

  Single rows keep their bits, and each index has its own shift: a batch may contain values from
  exp(-300) to exp(300).
  """
  order, group = _groups(index)
  peak = jax.ops.segment_max(log_value[order], group, len(index))[group]
  peak = jnp.zeros_like(log_value).at[order].set(jnp.where(jnp.isfinite(peak), peak, 0.0))
  return jnp.log(mean_over_duplicates(index, jnp.exp(log_value - peak))) + peak


def set_log_mean(table: Array, index: Array, log_value: Array) -> Array:
  """Writes exp(log_value) [B] to rows `index` [B] of a log table; duplicates store their mean.

  With the table sharded and `index`, `log_value` replicated this compiles to local masked writes.
  """
  new = log_mean_over_duplicates(index, log_value)
  return table.at[index].set(new.astype(table.dtype))


def set_mean(table: Array, index: Array, value: Array) -> Array:
  """Writes `value` [B] to rows `index` [B]; duplicates store their mean; see `set_log_mean`."""
  return table.at[index].set(mean_over_duplicates(index, value).astype(table.dtype))
