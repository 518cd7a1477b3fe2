"""SogCLR's estimator: identities, moving average, stop-gradients. The numbers: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.core.errors import UserError
from clr_jax.losses import global_contrastive as losses
from clr_jax.losses.global_contrastive import first_visit_gamma
from tests.losses._cases import batches, compiled, rotation, same

sogclr, update_log_u = compiled(losses.sogclr), compiled(losses.update_log_u)
combine_log_u = compiled(losses.combine_log_u)

Z = jax.random.normal(jax.random.key(3), [5, 2, 6])
LOG_U = jnp.array([0.5, -1.0, 2.0, 0.0, -jnp.inf])


def surrogate(z, log_u=LOG_U, **options):
  return sogclr(z, log_u, **{'temperature': 0.2, **options}).per_example.mean()


@jax.jit
def similarities(z):
  """Scores [M, M] of unit rows, mask of negatives, positives [B]; M = 2 B."""
  z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
  rows = z.reshape(-1, z.shape[-1])
  sample = np.repeat(np.arange(len(z)), 2)
  return rows @ rows.T, sample[:, None] != sample[None], jnp.sum(z[:, 0] * z[:, 1], -1)


@jax.jit
def dcl(z, temperature):
  """Decoupled contrastive loss with the mean of the negatives instead of their sum."""
  scores, negative, positive = similarities(z)
  log_mean = jnp.log(jnp.mean(jnp.exp(scores / temperature), -1, where=negative))
  return (log_mean.reshape(-1, 2).sum(-1) - 2 * positive / temperature).mean()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.floats(0.05, 1.0))
def test_gamma_1_is_the_decoupled_loss(seed, temperature):
  with jax.enable_x64(True):
    z = jnp.asarray(np.random.default_rng(seed).normal(size=(4, 2, 5)))
    log_u = jnp.asarray([-jnp.inf, 3.0, -3.0, 0.0])
    grad = jax.grad(surrogate)(z, log_u, temperature=temperature, gamma=1.0, eps=0.0)
    expected = temperature * jax.grad(dcl)(z, temperature)
    np.testing.assert_allclose(grad, expected, rtol=1e-9, atol=1e-12)
    objective = sogclr(z, log_u, temperature=temperature, gamma=1.0).objective
    np.testing.assert_allclose(objective.sum(-1).mean(), temperature * dcl(z, temperature))


@pytest.mark.parametrize('eps', [0.0, 1e-8, 3.0])
def test_gradient_stops_at_the_weights(eps, x64):
  """Exactly the gradient of sum w s with w frozen, here written out and differentiated by steps."""
  z, log_u, t, gamma = np.asarray(Z, float), np.asarray(LOG_U, float), 0.2, 0.7
  scores, negative, _ = (np.asarray(x) for x in similarities(z))
  g = np.mean(np.exp(scores / t), -1, where=negative)
  u = (1 - gamma) * np.repeat(np.exp(log_u), 2) + gamma * g
  w = np.where(negative, np.exp(scores / t) / np.maximum(u, eps)[:, None], 0)

  def frozen(z):
    scores, _, positive = similarities(z)
    return ((w * scores).sum() / 8 - 2 * positive.sum()) / 5

  result = sogclr(jnp.asarray(z), jnp.asarray(log_u), temperature=t, gamma=gamma, eps=eps)
  np.testing.assert_allclose(np.exp(result.log_u.reshape(-1)), u, rtol=1e-12)
  np.testing.assert_allclose(result.per_example.mean(), frozen(z), rtol=1e-12)
  grad = jax.grad(surrogate)(
    jnp.asarray(z), jnp.asarray(log_u), temperature=t, gamma=gamma, eps=eps
  )
  for at in ((0, 0, 0), (2, 1, 3), (4, 0, 5)):
    step = np.zeros_like(z)
    step[at] = 1e-5
    np.testing.assert_allclose(grad[at], (frozen(z + step) - frozen(z - step)) / 2e-5, rtol=1e-7)


def test_no_gradient_to_u_and_temperature():
  grads = jax.grad(lambda log_u, t: surrogate(Z, log_u, temperature=t), argnums=(0, 1))(
    jnp.zeros(5), jnp.float32(0.2)
  )
  assert (grads[0] == 0).all() and grads[1] == 0
  grad = jax.grad(lambda z: sogclr(z, LOG_U, temperature=0.2).log_u.sum())(Z)
  objective_grad = jax.grad(lambda z: sogclr(z, LOG_U, temperature=0.2).objective.sum())(Z)
  assert (grad == 0).all() and (objective_grad == 0).all()


def test_eps_is_a_floor_of_u_in_the_weights_only(x64):
  """Opposite samples: g = exp(-1 / 0.05) = 2e-9 lies below LibAUC's 1e-8."""
  z = jnp.asarray([[[1.0, 0.0]] * 2, [[-1.0, 0.0]] * 2])
  log_u = jnp.full([2], -jnp.inf)
  clamped = sogclr(z, log_u, temperature=0.05, gamma=1.0, eps=1e-8)
  free = sogclr(z, log_u, temperature=0.05, gamma=1.0, eps=0.0)
  np.testing.assert_allclose(free.per_example, -2 + 2 * -1.0)  # weights 1
  np.testing.assert_allclose(clamped.per_example, -2 - 2 * np.exp(-20) / 1e-8)
  np.testing.assert_array_equal(clamped.log_u, free.log_u)
  np.testing.assert_allclose(free.log_u, -20)


@pytest.mark.parametrize('gamma', [0.3, 0.9])
@pytest.mark.parametrize('rule', ['mean', 'sum'])
def test_steady_state(gamma, rule):
  """u settles at g; "sum" at 2 gamma / (2 gamma - 1) g, and nowhere for gamma <= 0.5."""
  log_u = jnp.full([5], -jnp.inf)
  g = sogclr(Z, log_u, temperature=0.2, gamma=1.0).log_u
  for _ in range(60):
    log_u = combine_log_u(sogclr(Z, log_u, temperature=0.2, gamma=gamma).log_u, rule)
  growth = np.asarray(log_u - combine_log_u(g, 'mean'))
  if rule == 'mean':
    np.testing.assert_allclose(growth, 0, atol=1e-5)
  elif gamma == 0.9:
    np.testing.assert_allclose(growth, np.log(2.25), atol=1e-5)
  else:
    assert (growth > 10).all()  # times 1.4 each step


def test_first_visit_rules():
  new, old, mixed = (jnp.array(x) for x in ([-jnp.inf] * 2, [0.0, 1.0], [-jnp.inf, 1.0]))
  for rule, expected in (
    ('per_index', ([1, 1], [0.9, 0.9], [1, 0.9])),
    ('per_batch', ([1, 1], [0.9, 0.9], [0.9, 0.9])),
    ('none', ([0.9, 0.9],) * 3),
  ):
    for log_u, gamma in zip((new, old, mixed), expected, strict=True):
      np.testing.assert_allclose(first_visit_gamma(log_u, 0.9, rule), gamma, rtol=1e-6)
  with pytest.raises(UserError, match='per_index, per_batch, none'):
    first_visit_gamma(new, 0.9, 'never')


def test_update_is_exact_at_the_ends():
  log_u, log_g = jnp.array([-jnp.inf, 300.0, -300.0]), jnp.array([-300.0, -300.0, 300.0])
  np.testing.assert_array_equal(update_log_u(log_u, log_g, jnp.ones(3)), log_g)
  kept = update_log_u(log_u, log_g, jnp.full(3, 0.5))
  np.testing.assert_allclose(kept, np.array([-300, 300, 300]) - np.log(2), rtol=1e-6)


def test_combine():
  log_u = jnp.array([[0.0, np.log(3.0)], [-300.0, -300.0], [-jnp.inf, 0.0], [-jnp.inf, -jnp.inf]])
  np.testing.assert_allclose(
    combine_log_u(log_u, 'mean'), [np.log(2), -300, -np.log(2), -np.inf], rtol=1e-6
  )
  np.testing.assert_allclose(
    combine_log_u(log_u, 'sum'), [np.log(4), -300 + np.log(2), 0, -np.inf], atol=1e-6, rtol=1e-6
  )
  with pytest.raises(UserError, match='mean, sum'):
    combine_log_u(log_u, 'max')


def test_one_temperature_and_gamma_each():
  constant = sogclr(Z, LOG_U, temperature=jnp.full(5, 0.2), gamma=jnp.full(5, 0.6))
  jax.tree.map(same, constant, sogclr(Z, LOG_U, temperature=0.2, gamma=0.6))
  changed = sogclr(Z, LOG_U, temperature=jnp.array([0.2, 0.2, 0.5, 0.2, 0.2]), gamma=0.6)
  other = np.arange(5) != 2
  same(changed.per_example[other], constant.per_example[other])
  assert abs(changed.per_example[2] - constant.per_example[2]) > 1e-3


def test_order_of_samples_and_views():
  order = jnp.array([3, 0, 4, 1, 2])
  whole = sogclr(Z, LOG_U, temperature=0.2)
  jax.tree.map(
    same, sogclr(Z[order], LOG_U[order], temperature=0.2), jax.tree.map(lambda x: x[order], whole)
  )
  same(sogclr(Z[:, ::-1], LOG_U, temperature=0.2).log_u, whole.log_u[:, ::-1])


@settings(max_examples=10, deadline=None)
@given(batches(size=5), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_scale_and_rotation_change_nothing(z, scale, seed):
  same(surrogate(scale * z), surrogate(z))
  same(surrogate(z @ rotation(seed, z.shape[-1])), surrogate(z))


def test_gradient_is_orthogonal_to_the_raw_vectors(x64):
  z = jnp.asarray(Z, float)
  grad = jax.grad(surrogate)(z, jnp.asarray(LOG_U, float))
  assert np.abs(grad).max() > 1e-4
  np.testing.assert_allclose(np.sum(np.asarray(grad) * np.asarray(z), -1), 0, atol=1e-12)


def test_temperature_0_005_in_float32():
  for log_u in (LOG_U, jnp.full(5, 190.0), jnp.full(5, -190.0), jnp.full(5, -jnp.inf)):
    gamma = first_visit_gamma(log_u, 0.9, 'per_index')
    for z in (Z, jnp.ones_like(Z)):
      result = sogclr(z, log_u, temperature=0.005, gamma=gamma)
      grad = jax.grad(surrogate)(z, log_u, temperature=0.005, gamma=gamma)
      assert all(np.isfinite(x).all() for x in (*result, grad))
  same_value = sogclr(Z, LOG_U, temperature=0.005, gamma=0.9)
  with jax.enable_x64(True):
    z, log_u = jnp.asarray(np.asarray(Z), float), jnp.asarray(np.asarray(LOG_U), float)
    wide = sogclr(z, log_u, temperature=0.005, gamma=0.9)
  np.testing.assert_allclose(same_value.log_u, wide.log_u, rtol=1e-5)
  np.testing.assert_allclose(same_value.per_example, wide.per_example, rtol=1e-3)


def test_zero_vectors_have_a_finite_gradient():
  for z in (jnp.zeros_like(Z), Z.at[0, 0].set(0)):
    assert np.isfinite(surrogate(z)) and np.isfinite(jax.grad(surrogate)(z)).all()


def test_bfloat16_is_computed_in_float32():
  half = Z.astype(jnp.bfloat16)
  result = sogclr(half, LOG_U, temperature=0.2)
  assert all(x.dtype == jnp.float32 for x in result)
  jax.tree.map(same, result, sogclr(half.astype(jnp.float32), LOG_U, temperature=0.2))


def test_unit_rows_need_no_normalizing():
  z = Z / jnp.linalg.norm(Z, axis=-1, keepdims=True)
  same(surrogate(z, normalize=False), surrogate(Z))
