"""Inputs shared by the tests of losses."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st


def compiled(function, *fixed_numbers):
  """`function` as one program for its shapes and choices; its numbers are arguments.

  Op by op, each operation would be a program of its own, which takes most of a test's time.
  """
  names = list(inspect.signature(function).parameters)

  @functools.partial(jax.jit, static_argnums=0)
  def run(fixed, given):
    return function(**dict(fixed), **given)

  def call(*args, **options):
    options |= zip(names, args, strict=False)
    fixed = {
      k: v
      for k, v in options.items()
      if k in fixed_numbers or v is None or isinstance(v, bool | int | str)
    }
    return run(tuple(fixed.items()), {k: v for k, v in options.items() if k not in fixed})

  return call


def batches(*, min_batch=2, size=None):
  """[B, 2, 4] float32, no row near zero; few shapes, since each one compiles anew."""
  sizes = st.just(size) if size else st.sampled_from([min_batch, 5])
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
