"""Unit vectors, inner products and the masked log-sum-exp."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.ops.similarity import (
  at_least_float32,
  flatten_views,
  l2_normalize,
  logsumexp,
  similarity,
)


def test_unit():
  x = jnp.array([[3.0, 4.0], [1e-6, 0.0], [1e15, 1e15]])
  np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8], [1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
  # Below 1e-12 vectors shrink to 0, as in torch.nn.functional.normalize.
  np.testing.assert_allclose(l2_normalize(jnp.array([1e-14, 0.0])), [0.01, 0], rtol=1e-5)


def test_unit_of_zero_is_zero_and_passes_no_gradient():
  x = jnp.zeros([2, 3]).at[1, 0].set(2)
  assert (l2_normalize(x)[0] == 0).all()
  grad = jax.grad(lambda x: l2_normalize(x).sum())(x)
  np.testing.assert_allclose(grad, [[0, 0, 0], [0, 0.5, 0.5]])


@pytest.mark.parametrize('scale', [1.0, 1e7, 1e13, 1e20, 1e30])
def test_value_and_gradient_at_any_length(scale):
  """The gradient is that of rows of moderate length, over the length."""
  rng = np.random.default_rng(0)
  x, weight = rng.normal(size=(2, 4, 5))

  def total(x):
    return (l2_normalize(x) * weight).sum()

  norm = np.linalg.norm(x, axis=1, keepdims=True)
  unit = x / norm
  expected = (weight - unit * (unit * weight).sum(1, keepdims=True)) / norm
  long = jnp.asarray(x * scale, jnp.float32)
  np.testing.assert_allclose(l2_normalize(long), unit, atol=1e-6)
  np.testing.assert_allclose(np.float64(jax.grad(total)(long)) * scale, expected, atol=1e-6)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int32])
def test_never_narrower_than_float32(dtype):
  x = jnp.ones([2, 3], dtype)
  assert at_least_float32(x).dtype == l2_normalize(x).dtype == jnp.float32
  np.testing.assert_allclose(jnp.linalg.norm(l2_normalize(x), axis=-1), 1, rtol=1e-6)


def test_float64_stays(x64):
  assert l2_normalize(jnp.ones([2, 3], jnp.float64)).dtype == jnp.float64


def test_similarity_of_leading_axes():
  a, b = jnp.arange(12.0).reshape(2, 2, 3), jnp.ones([2, 5, 3])
  assert similarity(a, b).shape == (2, 2, 5)
  np.testing.assert_allclose(similarity(a, b)[1, 1], [30.0] * 5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-200, 200), min_size=1, max_size=6), st.integers(0, 63))
def test_logsumexp_of_the_selected(values, bits):
  values = (values + [0.0] * 6)[:6]  # one shape: one compilation
  where = np.array([bits >> i & 1 for i in range(6)], bool)
  selected = np.asarray(values, np.float64)[where]
  expected = np.logaddexp.reduce(selected) if where.any() else -np.inf
  np.testing.assert_allclose(
    logsumexp(jnp.asarray(values), jnp.asarray(where)), expected, rtol=1e-5, atol=1e-5
  )


def test_logsumexp_shift_ignores_masked_entries():
  """A self-similarity of 1/T = 200 beside others of -200."""
  x, where = jnp.array([200.0, -200.0, -200.0]), jnp.array([False, True, True])
  np.testing.assert_allclose(logsumexp(x, where), -200 + np.log(2), rtol=1e-6)
  np.testing.assert_allclose(jax.grad(logsumexp)(x, where), [0, 0.5, 0.5], atol=1e-7)
  big = jnp.array([1e30, 0.0, 0.0])
  np.testing.assert_allclose(jax.grad(logsumexp)(big, where), [0, 0.5, 0.5], atol=1e-7)


def test_logsumexp_of_nothing():
  x, where = jnp.array([1.0, 2.0]), jnp.zeros(2, bool)
  assert logsumexp(x, where) == -jnp.inf
  np.testing.assert_array_equal(jax.grad(logsumexp)(x, where), [0, 0])
  np.testing.assert_array_equal(logsumexp(jnp.full(2, -jnp.inf), ~where), -jnp.inf)


def test_flatten_views_is_sample_major():
  z = jnp.arange(12).reshape(2, 3, 2)
  np.testing.assert_array_equal(flatten_views(z)[4], z[1, 1])
