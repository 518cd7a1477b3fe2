import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation.attacks import Classifier, pgd
from clr_jax.evaluation.attacks.norms import distance
from clr_jax.evaluation.attacks.pgd import pgd_steps, random_delta
from tests.evaluation.attacks.toy import predict, toy

BUDGET = {'l2': 0.4, 'linf': 0.05}


@pytest.mark.parametrize('norm', BUDGET)
@pytest.mark.parametrize(
  ('protocol', 'loss'), [('standard', 'margin'), ('early_stop', 'cross_entropy')]
)
def test_points_stay_in_ball_and_box(norm, protocol, loss):
  classifier, images, labels = toy()
  images = images.at[:4].set(images[:4].round())  # in corners of the box
  start = jax.random.normal(jax.random.key(1), images.shape)
  start *= 0.9 * BUDGET[norm] / distance(start, norm).reshape(-1, 1, 1, 1)
  run = pgd_steps(
    classifier, images, labels, norm=norm, epsilon=BUDGET[norm], steps=5, protocol=protocol,
    loss=loss, start=start,
  )  # fmt: skip
  points = list(run)
  assert len(points) == 6
  for point in points:
    assert (distance(point - images, norm) <= BUDGET[norm] * (1 + 1e-5)).all()
    assert (point >= 0).all() and (point <= 1).all()
  assert (points[-1] != points[0]).any()


def test_early_stop_never_moves_a_misclassified_image():
  classifier, images, labels = toy()
  run = pgd_steps(
    classifier, images, labels, norm='l2', epsilon=1.0, steps=8, protocol='early_stop'
  )
  points = list(run)
  stopped = 0
  for before, after in itertools.pairwise(points):
    wrong = predict(classifier, before) != labels
    np.testing.assert_array_equal(after[wrong], before[wrong])
    assert (distance(after - before, 'l2')[~wrong] > 0).all()
    stopped += int(wrong.sum())
  assert stopped > 8  # more than the one that is wrong from the start


@pytest.mark.parametrize('protocol', ['standard', 'early_stop'])
def test_result(protocol):
  classifier, images, labels = toy()
  result = pgd(classifier, images, labels, norm='l2', epsilon=0.3, steps=5, protocol=protocol)
  wrong = predict(classifier, images) != labels
  np.testing.assert_array_equal(predict(classifier, result.images) != labels, result.success)
  np.testing.assert_array_equal(result.distance == 0, wrong)
  np.testing.assert_array_equal(jnp.isinf(result.distance), ~result.success)
  away = distance(result.images - images, 'l2')
  np.testing.assert_allclose(away, jnp.where(result.success, result.distance, 0))
  assert 0 < int((result.success & ~wrong).sum()) < int((~wrong).sum())


@pytest.mark.parametrize(('protocol', 'factor'), [('standard', 2.5), ('early_stop', 2.0)])
def test_default_step_size(protocol, factor):
  classifier, images, labels = toy()
  images = images * 0.5 + 0.25  # the box is far
  run = pgd_steps(classifier, images, labels, norm='l2', epsilon=0.1, steps=5, protocol=protocol)
  first, second, *_ = run
  moved = distance(second - first, 'l2')
  np.testing.assert_allclose(moved[moved > 0], factor * 0.1 / 5, rtol=1e-4)


def test_a_larger_budget_breaks_more_and_the_margin_attacks_too():
  classifier, images, labels = toy()
  broken = [
    int(pgd(classifier, images, labels, norm='linf', epsilon=e, steps=10, loss=loss).success.sum())
    for loss in ('cross_entropy', 'margin')
    for e in (0.01, 0.1)
  ]
  assert broken[1] > broken[0] + 5 and broken[3] > broken[2] + 5


def test_targets_are_reached():
  classifier, images, labels = toy()
  targets = (labels + 1) % 5
  result = pgd(classifier, images, labels, norm='l2', epsilon=3.0, steps=20, targets=targets)
  moved = result.success & (result.distance > 0)
  assert int(moved.sum()) > 6
  np.testing.assert_array_equal(predict(classifier, result.images)[moved], targets[moved])


def test_restarts_keep_the_closest():
  classifier, images, labels = toy()
  options = {'norm': 'l2', 'epsilon': 0.3, 'steps': 3, 'random_start': True}
  options |= {'key': jax.random.key(0)}
  one = pgd(classifier, images, labels, **options)
  three = pgd(classifier, images, labels, restarts=3, **options)
  assert (three.distance <= one.distance).all() and (three.distance < one.distance).any()
  np.testing.assert_array_equal(predict(classifier, three.images) != labels, three.success)


@pytest.mark.parametrize('norm', BUDGET)
def test_random_starts_fill_the_ball(norm):
  keys = jax.random.split(jax.random.key(0), 200)
  images = jnp.zeros((200, 2, 1, 1))
  away = distance(random_delta(keys, 0, images, 2.0, norm), norm)
  assert (away <= 2).all()
  # Uniform in two dimensions: half of the points lie within 1 / sqrt(2) of the radius.
  assert abs(float(jnp.mean(away < 2 / 2**0.5)) - 0.5) < 0.1


def test_results_do_not_depend_on_the_batch():
  classifier, images, labels = toy()
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(20))
  options = {'norm': 'linf', 'epsilon': 0.05, 'steps': 4, 'random_start': True}
  whole = pgd(classifier, images, labels, key=jax.random.key(0), **options)
  parts = [
    pgd(classifier, images[i : i + 10], labels[i : i + 10], key=keys[i : i + 10], **options)
    for i in (0, 10)
  ]
  parts = jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)
  np.testing.assert_array_equal(whole.success, parts.success)
  np.testing.assert_allclose(whole.images, parts.images, atol=1e-6)


def test_one_program_serves_all_budgets_and_weights():
  classifier, images, labels = toy()
  traces = []

  def apply(params, x):
    traces.append(x.shape)
    return classifier.apply(params, x)

  counts = []
  for scale in (1.0, 1.1):
    params = jax.tree.map(lambda p, s=scale: p * s, classifier.params)
    for epsilon in (0.01, 0.02):
      pgd(Classifier(apply, params), images, labels, norm='linf', epsilon=epsilon, steps=2)
      counts.append(len(traces))
  assert counts == [counts[0]] * 4


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'epsilon': 0}, 'epsilon=0 leaves no room'),
    ({'epsilon': -0.1}, 'leaves no room'),
    ({'epsilon': float('nan')}, 'leaves no room'),
    ({'steps': 0}, 'steps=0'),
    ({'norm': 'l1'}, "unknown norm of an attack with a budget 'l1'"),
    ({'loss': 'hinge'}, "unknown attack loss 'hinge'"),
    ({'protocol': 'stop'}, "unknown PGD protocol 'stop'"),
    ({'restarts': 2}, 'random starts'),
    ({'random_start': True}, 'needs a key'),
  ],
)
def test_bad_input(options, message):
  classifier, images, labels = toy()
  with pytest.raises(UserError, match=message):
    pgd(classifier, images, labels, **{'norm': 'l2', 'epsilon': 0.1, **options})


def test_images_must_be_floats_with_one_label_each():
  classifier, images, labels = toy()
  with pytest.raises(UserError, match='divide by 255'):
    pgd(classifier, (255 * images).astype(jnp.uint8), labels, norm='l2', epsilon=0.1)
  with pytest.raises(UserError, match='one integer for each of the 20 images'):
    pgd(classifier, images, labels[:3], norm='l2', epsilon=0.1)
