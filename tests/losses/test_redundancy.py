"""Barlow Twins and VICReg: identities and stability. The numbers: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.losses.redundancy import barlow_twins, cross_correlation, vicreg
from clr_jax.ops.whitening import cholesky_whiten
from tests.losses._cases import same

Z = jax.random.normal(jax.random.key(0), [12, 2, 4])
WHITE = cholesky_whiten(Z[:, 0])


def total(z):
  return sum(vicreg(z))


def test_barlow_is_zero_for_identical_whitened_views():
  np.testing.assert_allclose(barlow_twins(jnp.stack([WHITE, WHITE], 1)), 0, atol=1e-6)
  same(cross_correlation(jnp.stack([WHITE, -WHITE], 1)), -np.eye(4))


def test_barlow_ignores_scale_and_shift_of_a_feature():
  scale, shift = jnp.array([1.0, 2.0, 0.5, 3.0]), jnp.array([0.0, 5.0, -1.0, 2.0])
  same(barlow_twins(Z * scale[None, None] + shift[None, None]), barlow_twins(Z))


def test_vicreg_terms_are_zero_where_nothing_is_wrong():
  terms = vicreg(jnp.stack([1.1 * WHITE] * 2, 1))
  np.testing.assert_allclose(terms, 0, atol=1e-6)
  np.testing.assert_allclose(vicreg(Z + 100).covariance, vicreg(Z).covariance, rtol=1e-4)


def test_vicreg_sum_is_twice_the_average():
  z = Z / 4
  average, sum_ = vicreg(z), vicreg(z, variance_average=False)
  assert average.variance > 0
  same(sum_.variance, 2 * average.variance)
  same(sum_.covariance, average.covariance)


def test_vicreg_punishes_collapse():
  assert vicreg(jnp.ones_like(Z)).variance > 0.98
  assert vicreg(Z[..., :1] * jnp.ones([1, 1, 4])).covariance > 1


def test_collapsed_columns_are_finite():
  z = Z.at[..., 1].set(3.0)
  for loss in (barlow_twins, total):
    value, grad = jax.value_and_grad(loss)(z)
    assert np.isfinite(value) and np.isfinite(grad).all()


def test_bfloat16_is_widened():
  for loss in (barlow_twins, total):
    assert loss(Z.astype(jnp.bfloat16)).dtype == jnp.float32
