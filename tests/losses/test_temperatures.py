"""Individual temperatures: the derivative, the clip. The numbers: tests/golden."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.losses.global_contrastive import sogclr
from clr_jax.losses.temperatures import temperature_gradient, temperature_step


def test_the_gradient_is_that_of_the_robust_objective(x64):
  """d/dT of T log mean exp(s/T) + T rho, where u is the batch's own g (gamma = 1)."""
  rng = np.random.default_rng(0)
  z = jnp.asarray(rng.normal(size=(5, 2, 4)))
  tau, log_u = jnp.asarray(rng.uniform(0.1, 0.6, 5)), jnp.full([5], -jnp.inf)

  @jax.jit
  def objective(tau):
    unit = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    rows, sample = unit.reshape(-1, 4), np.repeat(np.arange(5), 2)
    scores = rows @ rows.T / jnp.repeat(tau, 2)[:, None]
    other = sample[:, None] != sample[None]
    log_g = jax.nn.logsumexp(jnp.where(other, scores, -jnp.inf), -1) - jnp.log(8)
    return jnp.sum(tau * (log_g.reshape(5, 2).mean(-1) + 0.3))

  result = jax.jit(functools.partial(sogclr, gamma=1.0))(z, log_u, temperature=tau)
  gradient = temperature_gradient(result, tau, rho=0.3)
  np.testing.assert_allclose(gradient, jax.grad(objective)(tau), rtol=1e-9)
  no_gradient = jax.jit(
    jax.grad(lambda z: temperature_gradient(sogclr(z, log_u, temperature=tau), tau, rho=0.3).sum())
  )(z)
  np.testing.assert_array_equal(no_gradient, 0)


@settings(max_examples=20, deadline=None)
@given(
  st.floats(0.0625, 0.5, width=32),
  st.floats(-100, 100, width=32),
  st.floats(-100, 100, width=32),
  st.floats(0, 10),
  st.floats(0.01, 1),
)
def test_temperatures_stay_within_their_bounds(tau, average, gradient, eta, beta):
  values = (jnp.float32(x) for x in (tau, average, gradient))
  new, momentum = temperature_step(*values, eta=eta, beta=beta, bounds=(0.05, 0.7))
  assert np.float32(0.05) <= new <= np.float32(0.7)
  np.testing.assert_allclose(momentum, (1 - beta) * average + beta * gradient, rtol=1e-4, atol=1e-3)
  if eta == 0:
    assert new == np.float32(tau)
