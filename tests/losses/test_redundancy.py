"""Barlow Twins, VICReg and TiCo. The numbers of the first two: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.losses import redundancy as losses
from clr_jax.ops.whitening import cholesky_whiten
from tests.losses._cases import compiled, same

barlow_twins, cross_correlation = compiled(losses.barlow_twins), compiled(losses.cross_correlation)
vicreg, tico = compiled(losses.vicreg), compiled(losses.tico)

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


def numpy_tico(z, other, before, beta):
  """Image by image, in float64: the invariance, the contrast and the new covariance."""
  z, other = ([row / np.sqrt(np.sum(row**2)) for row in np.asarray(x, float)] for x in (z, other))
  covariance = beta * before + (1 - beta) * np.mean([np.outer(row, row) for row in z], 0)
  invariance = np.mean([1 - row @ pair for row, pair in zip(z, other, strict=True)])
  return invariance, np.mean([row @ covariance @ row for row in z]), covariance


def test_tico_is_the_mean_over_images(x64):
  rng = np.random.default_rng(0)
  z, other = rng.normal(size=[2, 6, 3])
  before = np.zeros([3, 3])
  for _ in range(2):  # the second time the past counts
    terms = tico(z, other, before, beta=0.7)
    expected = numpy_tico(z, other, before, 0.7)
    for value, reference in zip(terms, expected, strict=True):
      np.testing.assert_allclose(value, reference, rtol=1e-12)
    before, z = expected[-1], z[::-1] + 0.3


@pytest.mark.parametrize('detach', [True, False])
def test_tico_gradient_sees_the_batch_in_the_covariance_if_asked_to(x64, detach):
  rng = np.random.default_rng(1)
  z, other = rng.normal(size=[2, 5, 3])
  past = np.cov(rng.normal(size=[3, 9]))
  constant = numpy_tico(z, other, past, 0.6)[2]

  def total(z):
    terms = tico(z, other, past, beta=0.6, detach_covariance=detach)
    return terms.invariance + 8 * terms.contrast

  def numpy_total(z):
    if detach:  # with a covariance that does not move
      invariance, contrast, _ = numpy_tico(z, other, constant, 1.0)
    else:
      invariance, contrast, _ = numpy_tico(z, other, past, 0.6)
    return invariance + 8 * contrast

  np.testing.assert_allclose(total(z), numpy_total(z), rtol=1e-12)
  steps = 1e-6 * np.eye(z.size).reshape(-1, *z.shape)
  slope = [(numpy_total(z + e) - numpy_total(z - e)) / 2e-6 for e in steps]
  np.testing.assert_allclose(jax.grad(total)(z), np.reshape(slope, z.shape), rtol=1e-6, atol=1e-8)


def test_tico_punishes_collapse():
  white, same_rows = Z[:, 0], jnp.ones([12, 4])
  zeros = jnp.zeros([4, 4])
  collapsed = tico(same_rows, same_rows, zeros)
  np.testing.assert_allclose(collapsed.invariance, 0, atol=1e-6)
  np.testing.assert_allclose(collapsed.contrast, 0.1, rtol=1e-5)  # (1 - beta) times the largest
  assert tico(white, white, zeros).contrast < 0.06
  np.testing.assert_allclose(jnp.trace(tico(white, white, zeros).covariance), 0.1, rtol=1e-5)
