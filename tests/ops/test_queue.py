"""The ring buffer against a list, for every length and batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.core.errors import UserError
from clr_jax.ops import queue as ring


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
  length=st.sampled_from([1, 5]),
  counts=st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=6),
  leading=st.sampled_from([(), (2,)]),
)
def test_rows_and_pointer_wrap_around(length, counts, leading):
  queue = ring.init(jax.random.key(0), length, 3, leading=leading)
  expected, ptr = np.array(queue['rows']), 0
  for t, count in enumerate(min(c, length) for c in counts):
    keys = np.random.default_rng(t).normal(size=(*leading, count, 3)).astype(np.float32)
    queue = ring.enqueue(queue, jnp.asarray(keys))
    for i in range(count):
      expected[..., (ptr + i) % length, :] = keys[..., i, :]
    ptr = (ptr + count) % length
    np.testing.assert_array_equal(queue['rows'], expected)
    assert int(queue['ptr']) == ptr and queue['ptr'].dtype == jnp.int32


def test_it_starts_with_different_unit_rows():
  rows = np.asarray(ring.init(jax.random.key(1), 5, 4, leading=(2,))['rows'])
  assert rows.shape == (2, 5, 4)
  np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, rtol=1e-5)
  assert len(np.unique(rows.reshape(10, 4), axis=0)) == 10


@pytest.mark.slow
def test_keys_keep_the_dtype_of_the_queue_and_carry_no_gradient():
  queue = ring.init(jax.random.key(0), 4, 2)
  assert ring.enqueue(queue, jnp.ones([2, 2], jnp.bfloat16))['rows'].dtype == jnp.float32
  grad = jax.grad(lambda k: ring.enqueue(queue, k)['rows'].sum())(jnp.ones([2, 2]))
  np.testing.assert_array_equal(grad, 0)


def test_more_keys_than_rows_are_refused():
  with pytest.raises(UserError, match='queue_length >= 5'):
    ring.enqueue(ring.init(jax.random.key(0), 4, 2), jnp.ones([5, 2]))


@settings(max_examples=10, deadline=None)
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_a_count_writes_and_advances_by_so_many(counts):
  enqueue = jax.jit(ring.enqueue)
  queue = ring.init(jax.random.key(0), 5, 3)
  expected, ptr = np.array(queue['rows']), 0
  for t, count in enumerate(counts):
    keys = np.random.default_rng(t).normal(size=(4, 3)).astype(np.float32)
    keys[count:] = np.nan  # whatever a selection leaves behind
    queue = enqueue(queue, keys, jnp.int32(count))
    for key in keys[:count]:
      expected[ptr] = key
      ptr = (ptr + 1) % 5
    np.testing.assert_array_equal(queue['rows'], expected)
    assert int(queue['ptr']) == ptr
