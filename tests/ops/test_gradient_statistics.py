"""Gradient norms and the landscape, on a quadratic whose numbers are known."""

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.ops.gradient_statistics import group_norms, landscape


def test_group_norms_widen_and_join_tensors():
  grads = {'a': {'w': jnp.full([2, 2], 300.0, jnp.bfloat16), 'b': jnp.array([800.0])}, 'c': {}}
  norms = group_norms(grads)
  assert norms['a'].dtype == jnp.float32 and norms['c'] == 0
  np.testing.assert_allclose(norms['a'], 1000.0, rtol=1e-2)


def test_landscape_of_a_quadratic(x64):
  # loss = c |w|^2 / 2: gradient c w, at w - eta c w it is (1 - eta c) c w.
  c, w, etas = 3.0, {'w': jnp.array([1.0, 2.0, 2.0])}, [0.1, 1.0]
  found = landscape(jax.value_and_grad(lambda p: c / 2 * jnp.sum(p['w'] ** 2)), w, etas)
  shrink = 1 - c * np.array(etas)
  np.testing.assert_allclose(found.loss, 13.5)
  np.testing.assert_allclose(found.norms['w'], 9)
  np.testing.assert_allclose(found.losses, 13.5 * shrink**2)
  np.testing.assert_allclose(found.grad_norms, 9 * np.abs(shrink))
  np.testing.assert_allclose(found.grad_differences, 9 * c * np.array(etas))
