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


@pytest.mark.parametrize('norm', WEIGHT)
def test_finds_misclassified_points_closer_than_the_start(norm):
  classifier, images, labels = toy()
  start = gaussian_start(classifier, images, labels, key=jax.random.key(0))
  metric = norm.removesuffix('_source')
  options = {'norm': norm, 'prox_weight': WEIGHT[norm], **SHORT}
  result = plb(classifier, images, labels, start=start, **options)
  assert result.success.all() and (result.distance[-1] == 0) and (result.distance[:-1] > 0).all()
  assert (predict(classifier, result.images) != labels).all()
  assert (result.images >= 0).all() and (result.images <= 1).all()
  np.testing.assert_allclose(distance(result.images - images, metric), result.distance, rtol=1e-5)
  first = distance(start - images, metric)
  assert float(jnp.median(result.distance[:-1] / first[:-1])) < 0.9


@pytest.mark.parametrize('prox_weight', [1.0, 0.05])
@pytest.mark.parametrize('barrier', ['logits', 'probs'])
def test_best_distance_never_grows_and_every_point_is_misclassified(barrier, prox_weight):
  classifier, images, labels = toy()
  start = gaussian_start(classifier, images, labels, key=jax.random.key(0))
  run = plb_steps(
    classifier, images, labels, start=start, norm='l2', barrier=barrier, dt=0.1, alpha=0.1,
    beta=0.75, gamma=0.05, prox_weight=prox_weight, max_backtracks=30, **SHORT,
  )  # fmt: skip
  best = np.full(len(images), np.inf)
  backtracks = 0
  for state in run:
    assert (state.best_distance <= best).all()
    assert not correct(*classifier, state.point, labels).any()
    np.testing.assert_array_equal(state.point[-1], images[-1])
    best, backtracks = state.best_distance, backtracks + state.backtracks.sum()
  assert (backtracks > 0) or prox_weight < 1


def test_images_without_a_misclassified_start_fail_and_do_not_move():
  classifier, images, labels = toy()
  start = gaussian_start(classifier, images, labels, key=jax.random.key(0))
  start = start.at[:2].set(images[:2])
  result = plb(classifier, images, labels, norm='l2', start=start, prox_weight=0.05, **SHORT)
  np.testing.assert_array_equal(result.success, jnp.arange(20) > 1)
  np.testing.assert_array_equal(result.images[:2], images[:2])
  assert jnp.isinf(result.distance[:2]).all()


def test_results_do_not_depend_on_the_batch():
  classifier, images, labels = toy()
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(20))
  options = {'norm': 'l2', 'prox_weight': 0.05, **SHORT}
  whole = plb(classifier, images, labels, key=jax.random.key(0), **options)
  half = plb(classifier, images[10:], labels[10:], key=keys[10:], **options)
  np.testing.assert_allclose(whole.distance[10:], half.distance, rtol=1e-3)
  np.testing.assert_allclose(whole.images[10:], half.images, atol=1e-3)


def test_a_capped_step_is_undone():
  classifier, images, labels = toy()
  start = gaussian_start(classifier, images, labels, key=jax.random.key(0))
  # prox_weight 100 proposes the image itself, and gamma near 1 hardly comes back from it.
  result = plb(
    classifier, images, labels, norm='l2', start=start, prox_weight=100.0, gamma=0.999,
    max_backtracks=2, outer=1, inner=2,
  )  # fmt: skip
  assert result.success.all()
  np.testing.assert_allclose(result.distance[:-1], distance(start - images, 'l2')[:-1], rtol=1e-6)


def test_gaussian_start_is_misclassified_and_small_noise_comes_first():
  classifier, images, labels = toy()
  start = gaussian_start(classifier, images, labels, key=jax.random.key(0))
  assert (predict(classifier, start) != labels).all()
  assert (start >= 0).all() and (start <= 1).all()
  np.testing.assert_array_equal(start[-1], images[-1])
  loud = gaussian_start(classifier, images, labels, key=jax.random.key(0), sigma=10.0)
  assert distance(start - images, 'l2').mean() < 0.6 * distance(loud - images, 'l2').mean()


def test_gaussian_start_falls_back_to_the_next_class_of_the_pool():
  classifier, images, labels = toy(40)
  start = gaussian_start(
    classifier, images[:4], labels[:4], key=jax.random.key(0), tries=0, pool=(images, labels)
  )
  right = np.asarray(predict(classifier, images) == labels)
  present = sorted({int(c) for c in labels[right]})
  for row in range(4):
    nearest = min(set(present) - {int(labels[row])}, key=lambda c: (c - int(labels[row])) % 5)
    first = int(np.flatnonzero(right & (np.asarray(labels) == nearest))[0])
    np.testing.assert_array_equal(start[row], images[first])
  alone = gaussian_start(classifier, images[:1], labels[:1], key=jax.random.key(0), tries=0)
  np.testing.assert_array_equal(alone, images[:1])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'norm': 'l3'}, "unknown norm 'l3'"),
    ({'barrier': 'log'}, "unknown barrier 'log'"),
    ({'prox_weight': 0}, 'prox_weight=0 must be positive'),
    ({'gamma': 1}, 'gamma=1 is not in'),
    ({'outer': 0}, 'outer=0'),
    ({'start': None}, 'needs a key'),
  ],
)
def test_bad_input(options, message):
  classifier, images, labels = toy()
  with pytest.raises(UserError, match=message):
    plb(classifier, images, labels, **{'norm': 'l2', 'start': images, **options})
