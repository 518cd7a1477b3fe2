"""Normalization in one pass over the inputs equals that in two, with all its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.models.norm import BatchNorm
from clr_jax.models.one_pass_norm import normalize_batch


@pytest.mark.slow
@pytest.mark.parametrize(
  'groups',
  [2, pytest.param(1, marks=pytest.mark.weekly), pytest.param(3, marks=pytest.mark.weekly)],
)
def test_equals_two_passes(groups, x64):
  """Outputs, running statistics, gradients, a second derivative, and forward mode."""
  rng = np.random.default_rng(0)
  args = rng.normal(1, 2, (4 * groups, 3, 2)), rng.normal(size=2), rng.normal(size=2)
  weights = rng.normal(size=(4 * groups, 3, 2))
  tangents = tuple(jnp.cos(a) for a in args)
  stats = {'mean': jnp.array([0.5, -3.0]), 'var': jnp.ones(2)}

  def everything(terms):
    layer = BatchNorm(terms=terms)

    def value(x, scale, bias):
      variables = {'params': {'scale': scale, 'bias': bias}, 'batch_stats': stats}
      y, new = layer.apply(variables, x, train=True, groups=groups, mutable=['batch_stats'])
      return (y**2 * weights).sum() + sum(jnp.sum(v**2) for v in jax.tree.leaves(new)), (y, new)

    def norm(*args):
      return sum(jnp.sum(g**2) for g in jax.grad(value, (0, 1, 2), has_aux=True)(*args)[0])

    def compute(*args):
      forward = jax.jvp(lambda *a: jax.jvp(lambda *b: value(*b)[0], a, tangents), args, tangents)
      return value(*args), jax.grad(norm, (0, 1, 2))(*args), forward

    return jax.jit(compute)(*args)

  two_passes = everything(0)
  for terms in (1, 4):
    found = everything(terms)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, two_passes)


@pytest.mark.parametrize(('far', 'terms'), [(0.0, 8), (100.0, 1)])
def test_float32_keeps_the_variance(far, terms):
  """Statistics of inputs whose mean is near the running mean or 100 deviations off."""
  x = 300 + jax.random.normal(jax.random.key(0), (512, 2, 4))
  scale, bias, shift = jnp.ones(4), jnp.zeros(4), jnp.full(4, 300 - far)
  x = x.reshape(256, 2, 2, 4)
  y, mean, var = jax.jit(lambda x: normalize_batch(x, scale, bias, shift, 1e-5, terms))(x)
  exact = np.asarray(x, np.float64)
  tolerance = 1e-6 * (1 + far**2)
  np.testing.assert_allclose(mean, exact.mean((0, 2)), rtol=1e-6)
  np.testing.assert_allclose(var, exact.var((0, 2)), rtol=tolerance)
  assert y.dtype == 'float32'
