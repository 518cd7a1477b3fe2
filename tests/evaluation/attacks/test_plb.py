import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation.attacks import gaussian_start, plb
from clr_jax.evaluation.attacks.base import correct
from clr_jax.evaluation.attacks.norms import distance
from clr_jax.evaluation.attacks.plb import plb_steps
from tests.evaluation.attacks.toy import predict, toy

SHORT = {'outer': 6, 'inner': 6}
WEIGHT = {'l2': 0.05, 'linf': 1.0, 'l1': 0.01, 'l0': 1e-3, 'linf_source': 0.1}


@pytest.mark.slow
@pytest.mark.parametrize('norm', WEIGHT)
def test_finds_misclassified_points_closer_than_the_start(norm):
  problem = toy(norm)
  images = problem.images
  start = gaussian_start(problem, key=jax.random.key(0))
  metric = norm.removesuffix('_source')
  result = plb(problem, start=start, prox_weight=WEIGHT[norm], **SHORT)
  assert result.success.all() and (result.distance[-1] == 0) and (result.distance[:-1] > 0).all()
  assert (predict(problem, result.images) != problem.labels).all()
  assert (result.images >= 0).all() and (result.images <= 1).all()
  np.testing.assert_allclose(distance(result.images - images, metric), result.distance, rtol=1e-5)
  first = distance(start - images, metric)
  assert float(jnp.median(result.distance[:-1] / first[:-1])) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize('prox_weight', [1.0, 0.05])
@pytest.mark.parametrize('barrier', ['logits', 'probs'])
def test_best_distance_never_grows_and_every_point_is_misclassified(barrier, prox_weight):
  problem = toy('l2')
  images = problem.images
  start = gaussian_start(problem, key=jax.random.key(0))
  run = plb_steps(problem, start, barrier=barrier, prox_weight=prox_weight, **SHORT)
  best = np.full(len(images), np.inf)
  backtracks = 0
  for state in run:
    assert (state.best_distance <= best).all()
    assert not correct(problem.classifier, state.point, problem.labels).any()
    np.testing.assert_array_equal(state.point[-1], images[-1])
    best, backtracks = state.best_distance, backtracks + state.backtracks.sum()
  assert (backtracks > 0) or prox_weight < 1


@pytest.mark.slow
def test_images_without_a_misclassified_start_fail_and_do_not_move():
  problem = toy('l2')
  images = problem.images
  start = gaussian_start(problem, key=jax.random.key(0))
  start = start.at[:2].set(images[:2])
  result = plb(problem, start=start, prox_weight=0.05, **SHORT)
  np.testing.assert_array_equal(result.success, jnp.arange(20) > 1)
  np.testing.assert_array_equal(result.images[:2], images[:2])
  assert jnp.isinf(result.distance[:2]).all()


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch():
  problem = toy('l2')
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(20))
  whole = plb(problem, key=jax.random.key(0), prox_weight=0.05, **SHORT)
  half = plb(problem.take(slice(10, 20)), key=keys[10:], prox_weight=0.05, **SHORT)
  np.testing.assert_allclose(whole.distance[10:], half.distance, rtol=1e-3)
  np.testing.assert_allclose(whole.images[10:], half.images, atol=1e-3)


@pytest.mark.slow
def test_a_capped_step_is_undone():
  problem = toy('l2')
  start = gaussian_start(problem, key=jax.random.key(0))
  # prox_weight 100 proposes the image itself, and gamma near 1 hardly comes back from it.
  options = {'prox_weight': 100.0, 'gamma': 0.999, 'max_backtracks': 2, 'outer': 1, 'inner': 2}
  result = plb(problem, start=start, **options)
  assert result.success.all()
  away = distance(start - problem.images, 'l2')
  np.testing.assert_allclose(result.distance[:-1], away[:-1], rtol=1e-6)


@pytest.mark.slow
def test_gaussian_start_is_misclassified_and_small_noise_comes_first():
  problem = toy()
  images = problem.images
  start = gaussian_start(problem, key=jax.random.key(0))
  assert (predict(problem, start) != problem.labels).all()
  assert (start >= 0).all() and (start <= 1).all()
  np.testing.assert_array_equal(start[-1], images[-1])
  loud = gaussian_start(problem, key=jax.random.key(0), sigma=10.0)
  assert distance(start - images, 'l2').mean() < 0.6 * distance(loud - images, 'l2').mean()


@pytest.mark.slow
def test_gaussian_start_falls_back_to_the_next_class_of_the_pool():
  problem = toy(size=40)
  images, labels = problem.images, problem.labels
  options = {'key': jax.random.key(0), 'tries': 0}
  start = gaussian_start(problem.take(slice(4)), pool=(images, labels), **options)
  right = np.asarray(predict(problem, images) == labels)
  present = sorted({int(c) for c in labels[right]})
  for row in range(4):
    nearest = min(set(present) - {int(labels[row])}, key=lambda c: (c - int(labels[row])) % 5)
    first = int(np.flatnonzero(right & (np.asarray(labels) == nearest))[0])
    np.testing.assert_array_equal(start[row], images[first])
  alone = gaussian_start(problem.take(slice(1)), **options)
  np.testing.assert_array_equal(alone, images[:1])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'barrier': 'log'}, "barrier='log' is not allowed: did you mean 'logits'"),
    ({'prox_weight': 0}, 'prox_weight=0 is not allowed: give a number of at least 1e-09'),
    ({'gamma': 1}, 'gamma=1 is not allowed: give a number greater than 0 and less than 1'),
    ({'outer': 0}, 'outer=0'),
    ({'inners': 3}, "no option 'inners'"),
    ({'start': None}, 'needs a key'),
  ],
)
def test_bad_input(options, message):
  problem = toy('l2')
  with pytest.raises(UserError, match=message):
    plb(problem, **{'start': problem.images, **options})
