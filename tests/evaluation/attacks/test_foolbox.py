"""PGD against foolbox, on the same network and images."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.evaluation.attacks import pgd
from clr_jax.evaluation.attacks.pgd import pgd_steps
from tests.evaluation.attacks.toy import network, predict, toy

with warnings.catch_warnings():
  warnings.simplefilter('ignore')  # foolbox 3.3.4 imports from scipy.ndimage.filters
  fb = pytest.importorskip('foolbox', exc_type=ImportError)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('norm', 'epsilon'),
  [
    ('linf', 0.03),
    ('l2', 0.6),
    pytest.param('linf', 0.1, marks=pytest.mark.slow),
    pytest.param('l2', 0.2, marks=pytest.mark.slow),
  ],
)
def test_pgd_gives_foolbox_points(norm, epsilon):
  problem = toy(norm, epsilon, shape=(5, 4, 3), seed=3)
  images, labels = problem.images, problem.labels
  model = fb.models.JAXModel(
    lambda x: network(problem.classifier.params, x), bounds=(0, 1), data_format='channels_last'
  )
  attack = {'linf': fb.attacks.LinfPGD, 'l2': fb.attacks.L2PGD}[norm](
    rel_stepsize=0.2, steps=12, random_start=False
  )
  theirs, _, success = attack(model, images, labels, epsilons=epsilon)
  options = {'steps': 12, 'step_size': 0.2 * epsilon}
  *_, ours = pgd_steps(problem, **options)
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
  result = pgd(problem, **options)
  wrong = predict(problem, images) != labels
  np.testing.assert_array_equal(result.success, jnp.asarray(success) | wrong)
  assert bool(wrong.any())
  assert np.sum(success) > 0 and bool(jnp.any(jnp.abs(ours - images) > epsilon / 3))
