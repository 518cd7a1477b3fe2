"""Per-example tables: rows, duplicates, the range of logarithms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.ops import tables

set_log_mean = jax.jit(tables.set_log_mean)


@pytest.mark.parametrize(
  'examples, rows', [(1, 1024), (1024, 1024), (1025, 2048), (1437, 2048), (60_000, 60_416)]
)
def test_num_rows(examples, rows):
  assert tables.num_rows(examples) == rows
  table = tables.init_log(examples)
  assert table.shape == (rows,) and table.dtype == jnp.float32 and (table == -jnp.inf).all()


@settings(max_examples=40, deadline=None)
@given(
  st.lists(st.tuples(st.integers(0, 3), st.floats(-3, 3)), min_size=6, max_size=6),
  st.permutations(range(6)),
)
def test_duplicates_store_their_mean_in_any_order(pairs, order):
  index, value = (jnp.asarray(x) for x in zip(*pairs, strict=True))
  table = jnp.full([8], 7.0)
  new = set_log_mean(table, index, value)
  expected = np.full(8, 7.0)
  for i in set(index.tolist()):
    expected[i] = np.log(np.mean(np.exp([v for j, v in pairs if j == i])))
  np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-6)
  order = jnp.asarray(order)
  np.testing.assert_allclose(set_log_mean(table, index[order], value[order]), new, atol=1e-6)


def test_values_far_apart_in_one_batch_keep_their_bits():
  value = jnp.array([-300.0, 300.0, 0.1, -jnp.inf, 88.7, -3e38])
  new = set_log_mean(jnp.zeros(8), jnp.array([5, 0, 3, 1, 7, 2]), value)
  np.testing.assert_array_equal(new[jnp.array([5, 0, 3, 1, 7, 2])], value)
  assert new[4] == 0 and new[6] == 0


@pytest.mark.parametrize('shift', [-300.0, 0.0, 300.0])
def test_duplicates_far_from_the_rest_of_the_batch(shift):
  index = jnp.array([2, 0, 2, 1])
  value = jnp.array([shift, 300.0, shift + np.log(3.0), -300.0])
  new = set_log_mean(tables.init_log(4), index, value)
  np.testing.assert_allclose(new[2], shift + np.log(2), rtol=1e-6)
  np.testing.assert_array_equal(new[:2], [300.0, -300.0])


@pytest.mark.parametrize('order', [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_unvisited_duplicates_count_as_zero(order):
  index, value = np.array([1, 1, 0])[order], np.array([-np.inf, 0, -np.inf], 'float32')[order]
  new = set_log_mean(tables.init_log(3), index, value)
  np.testing.assert_allclose(new[:2], [-np.inf, -np.log(2)], rtol=1e-6)


def test_the_table_keeps_its_dtype(x64):
  table = tables.init_log(3)
  new = set_log_mean(table, jnp.array([1]), jnp.array([0.5], jnp.float64))
  assert new.dtype == table.dtype == jnp.float32


@settings(max_examples=20, deadline=None)
@given(
  st.lists(st.tuples(st.integers(0, 3), st.floats(-3, 3, width=32)), min_size=6, max_size=6),
  st.permutations(range(6)),
)
def test_set_mean(pairs, order):
  index, value = (jnp.asarray(x) for x in zip(*pairs, strict=True))
  set_mean = jax.jit(tables.set_mean)
  new = np.asarray(set_mean(tables.init(8, 7.0), index, value))
  for i in range(8):
    mine = [v for j, v in pairs if j == i] or [7.0]
    np.testing.assert_allclose(new[i], np.mean(mine), atol=1e-6)
    if len(mine) == 1:
      # But for denormal numbers, which XLA may take for 0.
      assert new[i] == np.float32(mine[0]) or abs(mine[0]) < 1e-37
  order = jnp.asarray(order)
  again = set_mean(tables.init(8, 7.0), index[order], value[order])
  np.testing.assert_allclose(again[:8], new[:8], atol=1e-6)
