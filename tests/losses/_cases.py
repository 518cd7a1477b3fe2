"""Inputs shared by the tests of losses."""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st


def batches(*, min_batch=2, size=None):
  """[B, 2, 4] float32, no row near zero; few shapes, since each one compiles anew."""
  sizes = st.just(size) if size else st.sampled_from([min_batch, 4, 5])
  return st.builds(_batch, sizes, st.integers(0, 10_000))


def _batch(size, seed):
  rng = np.random.default_rng(seed)
  z = rng.normal(size=(size, 2, 4))
  return jnp.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True) * rng.uniform(0.5, 4), 'float32')


def rotation(seed, dim):
  """A random orthogonal matrix, float32."""
  return jnp.asarray(
    np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0], 'float32'
  )


def same(a, b):
  """Equal up to float32 rounding."""
  np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
