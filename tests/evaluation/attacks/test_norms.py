import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.evaluation.attacks.norms import distance, project, steepest
from clr_jax.evaluation.attacks.prox import PROX

NORMS = ('l2', 'linf', 'l1', 'l0')
DUAL = {'l2': 'l2', 'l1': 'linf', 'linf': 'l1'}


def draw(seed, shape=(64, 3, 3, 1)):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize('norm', NORMS)
def test_distance_is_numpys_norm_of_each_image(norm):
  delta = draw(0).at[:, 0].set(0)
  order = {'l2': 2, 'linf': np.inf, 'l1': 1, 'l0': 0}[norm]
  rows = np.asarray(delta).reshape(64, -1)
  np.testing.assert_allclose(distance(delta, norm), np.linalg.norm(rows, order, axis=1), rtol=1e-6)


@pytest.mark.parametrize('norm', DUAL)
def test_projection_is_the_nearest_point_of_the_ball(norm):
  delta, others = draw(0), draw(1)
  others = others / distance(others, norm).reshape(-1, 1, 1, 1)  # on the sphere
  near = project(delta, norm, 1.0)
  assert (distance(near, norm) <= 1 + 1e-6).all()
  # Obtuse angle: <delta - near, other - near> <= 0 for every other point of the ball.
  assert (jnp.sum((delta - near) * (others - near), axis=(1, 2, 3)) <= 1e-5).all()
  inside = 0.99 * others
  np.testing.assert_allclose(project(inside, norm, 1.0), inside, rtol=1e-6)


@pytest.mark.parametrize('norm', ['l2', 'linf'])
def test_steepest_ignores_the_scale_and_stays_at_zero(norm):
  gradient = draw(0)
  unit = steepest(gradient, norm)
  np.testing.assert_allclose(distance(unit, norm), 1, rtol=1e-6)
  np.testing.assert_allclose(steepest(1e-30 * gradient, norm), unit, rtol=1e-5)
  assert (steepest(0 * gradient, norm) == 0).all()


@pytest.mark.parametrize('norm', DUAL)
def test_proximal_maps_are_firmly_non_expansive(norm):
  u, v, center = draw(0), draw(1), draw(2)
  a, b = PROX[norm](u, center, 0.7), PROX[norm](v, center, 0.7)
  moved = jnp.sum((a - b) ** 2, axis=(1, 2, 3))
  assert (moved <= jnp.sum((a - b) * (u - v), axis=(1, 2, 3)) + 1e-5).all()
  assert (moved > 0).any()


@pytest.mark.parametrize('norm', DUAL)
def test_proximal_maps_return_the_center_within_the_dual_ball(norm):
  s, center = draw(0), draw(1)
  s = s / distance(s, DUAL[norm]).reshape(-1, 1, 1, 1)
  np.testing.assert_allclose(PROX[norm](center + 0.69 * s, center, 0.7), center, atol=1e-6)
  assert (distance(PROX[norm](center + 0.72 * s, center, 0.7) - center, norm) > 1e-3).all()


@pytest.mark.slow
@pytest.mark.parametrize('norm', NORMS)
def test_proximal_maps_minimize(norm):
  u, center = draw(0, (1, 2, 2, 1)), draw(1, (1, 2, 2, 1))

  def objective(v):
    return 0.3 * distance(v - center, norm) + 0.5 * jnp.sum((v - u) ** 2, axis=(1, 2, 3))

  best = PROX[norm](u, center, 0.3)
  around = best + 0.1 * draw(2, (500, 2, 2, 1)) * jax.random.bernoulli(
    jax.random.key(3), 0.5, (500, 2, 2, 1)
  )
  assert (objective(around) >= objective(best) - 1e-6).all()
