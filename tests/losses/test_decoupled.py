"""DCL, FlatNCE, debiased, HCL, RPC: identities and invariances. The numbers: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.losses import contrastive
from clr_jax.losses import decoupled as losses
from tests.losses._cases import batches, compiled, rotation, same

ntxent, dcl, dcl_weights = map(compiled, (contrastive.ntxent, losses.dcl, losses.dcl_weights))
flatnce, rpc = compiled(losses.flatnce), compiled(losses.rpc)
hcl = compiled(losses.hcl, 'tau_plus')

Z = jax.random.normal(jax.random.key(0), [5, 2, 6])
LOSSES = {
  'dcl': lambda z: dcl(z, temperature=0.2).mean(),
  'dclw': lambda z: dcl(z, temperature=0.2, sigma=0.5).mean(),
  'flatnce': lambda z: flatnce(z, temperature=0.2).mean(),
  'hcl': lambda z: hcl(z).per_anchor.mean(),
  'rpc': lambda z: rpc(z, temperature=1.0),
}
each_loss = pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
SETTINGS = settings(max_examples=10, deadline=None)


@SETTINGS
@given(batches(), st.floats(0.1, 1.0))
def test_ntxent_is_the_softplus_of_dcl(z, temperature):
  v = dcl(z, temperature=temperature)
  same(jax.nn.softplus(v), ntxent(z, temperature=temperature))


@SETTINGS
@given(batches(), st.floats(0.1, 1.0))
def test_hcl_without_its_two_terms_is_ntxent(z, temperature):
  loss = hcl(z, temperature=temperature, tau_plus=0.0, beta=0.0)
  same(loss.per_anchor, ntxent(z, temperature=temperature))


def test_flatnce_has_the_value_of_infonce_and_the_gradient_of_dcl():
  same(flatnce(Z, temperature=0.2), ntxent(Z, temperature=0.2))
  same(jax.grad(LOSSES['flatnce'])(Z), jax.grad(LOSSES['dcl'])(Z))


def test_gradient_of_infonce_vanishes_where_flatnce_has_one():
  """grad InfoNCE_a = sigmoid(v_a) grad v_a."""

  def anchor(loss):
    return lambda z: loss(z, temperature=0.2)[1, 0]

  v, grad = jax.value_and_grad(anchor(dcl))(Z)
  same(jax.grad(anchor(ntxent))(Z), jax.nn.sigmoid(v) * grad)


def test_flatnce_does_not_overflow_at_a_tiny_temperature():
  value, grad = jax.value_and_grad(lambda z: flatnce(z, temperature=1e-3).mean())(Z)
  assert np.isfinite(value) and np.isfinite(grad).all() and (grad != 0).any()


def test_dcl_weights_have_mean_one_and_favor_distant_pairs():
  """Views of image 0 agree, all others are orthogonal."""
  z = jnp.eye(8).reshape(4, 2, 8).at[0, 1].set(jnp.eye(8)[0])
  weights = dcl_weights(z)
  same(weights.mean(), 1)
  assert (weights[0] < weights[1:]).all()
  options = {'temperature': 0.2, 'sigma': 0.5}
  through = jax.grad(lambda z: dcl(z, weight_stop_gradient=False, **options).mean())(Z)
  assert np.abs(through - jax.grad(LOSSES['dclw'])(Z)).max() > 1e-4


def test_hcl_weighs_hard_negatives_and_clamps():
  hardness = [hcl(Z, beta=b).per_anchor.mean() for b in (0.0, 1.0, 2.0)]
  assert hardness[0] < hardness[1] < hardness[2]
  alike = Z.at[:, 1].set(Z[:, 0])  # positives so close that they explain every negative
  clamped = hcl(alike, tau_plus=0.9)
  assert clamped.clamped.all()
  same(clamped.per_anchor, np.log1p(8 * np.exp(-4)))
  assert not hcl(Z, tau_plus=0.0).clamped.any()


@pytest.mark.parametrize('tau_plus', [0.0, 0.1, 0.9])
def test_hcl_gradient_is_finite_in_float32(tau_plus):
  """Also where log(R - tau_plus n e^s) has no value."""
  for z in (Z, Z.at[:, 1].set(Z[:, 0]), jnp.ones_like(Z)):
    grad = jax.grad(lambda z: hcl(z, temperature=0.05, tau_plus=tau_plus).per_anchor.sum())
    assert np.isfinite(grad(z)).all()


def test_rpc_optimum_is_the_relative_density_ratio():
  """Optimal constant scores: (1 - beta f+) = 0 on positives, f- = -alpha / gamma on negatives."""
  negative = ~jnp.eye(4, dtype=bool)

  @jax.jit
  def objective(scores):
    f = jnp.where(negative, scores[1], scores[0])
    pairs = losses.PairScores(jnp.diagonal(f), f, negative)
    return losses.rpc_objective(pairs, alpha=0.3, beta=0.1, gamma=2.0)

  optimum = jnp.array([10.0, -0.15])
  np.testing.assert_allclose(jax.jit(jax.grad(objective))(optimum), 0, atol=1e-6)
  assert objective(optimum) > objective(optimum + 0.1)


@each_loss
def test_rotation_changes_nothing(loss):
  same(loss(Z @ rotation(3, 6)), loss(Z))


@each_loss
def test_order_of_images_and_views_changes_nothing(loss):
  same(loss(Z[jnp.array([3, 0, 4, 1, 2])]), loss(Z))
  same(loss(Z[:, ::-1]), loss(Z))


@each_loss
def test_bfloat16_is_widened(loss):
  value = loss(Z.astype(jnp.bfloat16))
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, loss(Z), rtol=0.05)


def test_negatives_of_the_other_view_only(x64):
  """Equation 1 of the TAMU report: sum over j != i of exp(<f(x_i), f(x_j^+)> / T), no positive."""
  z = np.random.default_rng(0).normal(size=[4, 2, 3])
  u = z / np.linalg.norm(z, axis=-1, keepdims=True)
  expected = np.zeros([4, 2])
  for i in range(4):
    for v in range(2):
      others = [np.exp(u[i, v] @ u[j, 1 - v] / 0.3) for j in range(4) if j != i]
      expected[i, v] = np.log(sum(others)) - u[i, 0] @ u[i, 1] / 0.3
  got = losses.dcl(jnp.asarray(z), temperature=0.3, negative_views='other')
  np.testing.assert_allclose(got, expected, rtol=1e-12)
