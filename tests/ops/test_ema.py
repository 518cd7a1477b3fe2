"""The moving average of parameters: its ends, its memory, its precision."""

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.ops import ema

ONLINE = {'a': jnp.arange(6.0).reshape(2, 3) / 7, 'b': {'c': jnp.array([0.1, -3.0])}}
TARGET = jax.tree.map(lambda x: x * -1.3 + 0.2, ONLINE)


def test_momentum_1_freezes_and_0_copies_bit_for_bit():
  for momentum, expected in ((1.0, TARGET), (0.0, ONLINE)):
    result = jax.jit(ema.update)(TARGET, ONLINE, momentum)
    jax.tree.map(np.testing.assert_array_equal, result, expected)


def test_constant_online_parameters_are_approached_geometrically():
  target = TARGET
  for _ in range(5):
    target = ema.update(target, ONLINE, 0.7)
  expected = jax.tree.map(lambda t, o: o + 0.7**5 * (t - o), TARGET, ONLINE)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), target, expected
  )


def test_a_schedule_in_float64_does_not_change_dtypes(x64):
  momentum = jnp.asarray(0.999)
  assert momentum.dtype == jnp.float64
  target = {'x': jnp.ones(2, jnp.float32), 'y': jnp.ones(2, jnp.bfloat16)}
  online = jax.tree.map(jnp.zeros_like, target)
  new = ema.update(target, online, momentum)
  assert [v.dtype for v in new.values()] == [jnp.float32, jnp.bfloat16]
  np.testing.assert_allclose(new['x'], 0.999, rtol=1e-6)


def test_the_copy_survives_donation_of_the_original():
  online = jax.tree.map(jnp.array, ONLINE)
  target = ema.copy(online)
  jax.jit(lambda x: jax.tree.map(lambda v: v + 1, x), donate_argnums=0)(online)
  jax.tree.map(np.testing.assert_array_equal, target, ONLINE)
