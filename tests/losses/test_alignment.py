"""W-MSE, ARB, their whitening, a collapse monitor: invariances. The numbers: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.losses import alignment
from clr_jax.ops import whitening
from tests.losses._cases import compiled, rotation, same

of_w_mse, arb = compiled(alignment.w_mse), compiled(alignment.arb)
whiten_chunks = compiled(whitening.whiten_chunks)

Z = jax.random.normal(jax.random.key(0), [12, 2, 4])
P = jax.random.normal(jax.random.key(1), [12, 2, 4])
ORDER = jax.random.permutation(jax.random.key(2), 12)


def w_mse(z, **options):
  return of_w_mse(z, ORDER[None], size=6, **options).loss


def test_embedding_std_sees_collapse():
  z = jax.random.normal(jax.random.key(3), [200, 2, 16])
  np.testing.assert_allclose(alignment.embedding_std(z), 1 / 4, rtol=0.1)
  np.testing.assert_allclose(alignment.embedding_std(jnp.ones_like(z)), 0, atol=1e-6)


# ---------------------------------------------------------------- W-MSE
def test_every_chunk_of_every_view_is_white():
  whitened = whiten_chunks(Z, ORDER, size=6)
  for chunk in (ORDER[:6], ORDER[6:]):
    for view in (0, 1):
      same(np.cov(whitened[chunk, view], rowvar=False), np.eye(4))
      np.testing.assert_allclose(whitened[chunk, view].mean(0), 0, atol=1e-5)


def test_w_mse_ignores_a_linear_map_per_feature_but_not_a_rotation():
  """Cholesky whitening goes feature by feature."""
  scale = jnp.array([1.0, 2.0, 0.5, 3.0])
  same(w_mse(Z * scale[None, None] + 2), w_mse(Z))
  assert abs(w_mse(Z @ rotation(3, 4)) - w_mse(Z)) > 1e-4


def test_w_mse_order_matters_only_across_chunks():
  shuffled = jnp.concatenate([ORDER[:6][::-1], ORDER[6:]])
  same(of_w_mse(Z, shuffled[None], size=6).loss, w_mse(Z))
  assert abs(of_w_mse(Z, jnp.arange(12)[None], size=6).loss - w_mse(Z)) > 1e-4


def test_w_mse_of_equal_views_is_zero_and_iterations_are_averaged():
  np.testing.assert_allclose(w_mse(Z.at[:, 1].set(Z[:, 0])), 0, atol=1e-6)
  both = of_w_mse(Z, jnp.stack([ORDER, jnp.arange(12)]), size=6).loss
  same(both, (w_mse(Z) + of_w_mse(Z, jnp.arange(12)[None], size=6).loss) / 2)


def test_w_mse_one_sided_gradient():
  assert (jax.grad(lambda z: w_mse(z, symmetric=False))(Z)[:, 1] == 0).all()
  assert (jax.grad(w_mse)(Z)[:, 1] != 0).any()
  same(w_mse(Z, symmetric=False), w_mse(Z))


def test_w_mse_without_normalization():
  whitened = whiten_chunks(Z, ORDER, size=6)
  same(w_mse(Z, normalize=False), jnp.mean((whitened[:, 0] - whitened[:, 1]) ** 2))


def test_a_singular_chunk_is_counted_and_eps_repairs_it():
  z = Z.at[:6, 0].set(0.0)  # no variance in one chunk of one view
  order = jnp.arange(12)[None]
  assert of_w_mse(z, order, size=6).failed == 1
  assert np.isfinite(of_w_mse(z, order, size=6, eps=0.01).loss)
  assert of_w_mse(Z, order, size=6).failed == 0


def test_permutations_are_permutations():
  orders = whitening.permutations(jax.random.key(0), 3, 20)
  assert (jnp.sort(orders, -1) == jnp.arange(20)[None]).all()
  assert (orders[0] != orders[1]).any()


# ---------------------------------------------------------------- ARB
def test_arb_base_is_orthonormal():
  features = alignment.standardized_features(Z)
  base = whitening.orthonormal_base(features)
  products = jnp.einsum('vdn,ven->vde', base, base) / 11
  np.testing.assert_allclose(products, np.stack([np.eye(4)] * 2), atol=2e-4)


def test_arb_is_equivariant_in_one_group_only():
  order = jnp.array([2, 0, 3, 1])
  same(arb(Z, order), arb(Z))
  assert abs(arb(Z, order, groups=2) - arb(Z, groups=2)) > 1e-4


def test_arb_survives_more_features_than_images():
  wide = jax.random.normal(jax.random.key(5), [6, 2, 10]).at[..., 3].set(1.0)
  value, grad = jax.jit(jax.value_and_grad(alignment.arb))(wide)
  assert np.isfinite(value) and np.isfinite(grad).all()


def test_arb_base_has_no_gradient():
  def frozen(z, fixed):
    features, base = alignment.standardized_features(z), whitening.orthonormal_base(fixed)
    return jnp.sum((jnp.sum(features * base[::-1], -1) / 12 - 1) ** 2)

  fixed = alignment.standardized_features(Z)
  same(jax.grad(lambda z: arb(z, shrinkage=0.0))(Z), jax.jit(jax.grad(frozen))(Z, fixed))


def test_arb_refuses_an_unknown_divisor():
  with pytest.raises(UserError, match='divisor'):
    arb(Z, divisor='batches')
