import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation.attacks import Classifier, Problem, pgd
from clr_jax.evaluation.attacks.norms import distance
from clr_jax.evaluation.attacks.pgd import pgd_steps, random_delta
from tests.evaluation.attacks.toy import predict, toy

BUDGET = {'l2': 0.4, 'linf': 0.05}


@pytest.mark.slow
@pytest.mark.parametrize('norm', BUDGET)
@pytest.mark.parametrize(
  ('protocol', 'loss'), [('standard', 'margin'), ('early_stop', 'cross_entropy')]
)
def test_points_stay_in_ball_and_box(norm, protocol, loss):
  problem = toy(norm, BUDGET[norm])
  images = problem.images.at[:4].set(problem.images[:4].round())  # in corners of the box
  problem = problem.replace(images=images)
  start = jax.random.normal(jax.random.key(1), images.shape)
  start *= 0.9 * BUDGET[norm] / distance(start, norm).reshape(-1, 1, 1, 1)
  points = list(pgd_steps(problem, steps=5, protocol=protocol, loss=loss, start=start))
  assert len(points) == 6
  for point in points:
    assert (distance(point - images, norm) <= BUDGET[norm] * (1 + 1e-5)).all()
    assert (point >= 0).all() and (point <= 1).all()
  assert (points[-1] != points[0]).any()


@pytest.mark.slow
def test_early_stop_never_moves_a_misclassified_image():
  problem = toy('l2', 1.0)
  points = list(pgd_steps(problem, steps=8, protocol='early_stop'))
  stopped = 0
  for before, after in itertools.pairwise(points):
    wrong = predict(problem, before) != problem.labels
    np.testing.assert_array_equal(after[wrong], before[wrong])
    assert (distance(after - before, 'l2')[~wrong] > 0).all()
    stopped += int(wrong.sum())
  assert stopped > 8  # more than the one that is wrong from the start


@pytest.mark.slow
@pytest.mark.parametrize('protocol', ['standard', 'early_stop'])
def test_result(protocol):
  problem = toy('l2', 0.3)
  result = pgd(problem, steps=5, protocol=protocol)
  wrong = predict(problem, problem.images) != problem.labels
  fooled = predict(problem, result.images) != problem.labels
  np.testing.assert_array_equal(fooled, result.success)
  np.testing.assert_array_equal(result.distance == 0, wrong)
  np.testing.assert_array_equal(jnp.isinf(result.distance), ~result.success)
  away = distance(result.images - problem.images, 'l2')
  np.testing.assert_allclose(away, jnp.where(result.success, result.distance, 0))
  assert 0 < int((result.success & ~wrong).sum()) < int((~wrong).sum())


@pytest.mark.slow
@pytest.mark.parametrize(('protocol', 'factor'), [('standard', 2.5), ('early_stop', 2.0)])
def test_default_step_size(protocol, factor):
  problem = toy('l2', 0.1)
  problem = problem.replace(images=problem.images * 0.5 + 0.25)  # the box is far
  first, second, *_ = pgd_steps(problem, steps=5, protocol=protocol)
  moved = distance(second - first, 'l2')
  np.testing.assert_allclose(moved[moved > 0], factor * 0.1 / 5, rtol=1e-4)


@pytest.mark.slow
def test_a_larger_budget_breaks_more_and_the_margin_attacks_too():
  broken = [
    int(pgd(toy('linf', e), steps=10, loss=loss).success.sum())
    for loss in ('cross_entropy', 'margin')
    for e in (0.01, 0.1)
  ]
  assert broken[1] > broken[0] + 5 and broken[3] > broken[2] + 5


@pytest.mark.slow
def test_targets_are_reached():
  problem = toy('l2', 3.0)
  targets = (problem.labels + 1) % 5
  result = pgd(problem, steps=20, targets=targets)
  moved = result.success & (result.distance > 0)
  assert int(moved.sum()) > 6
  np.testing.assert_array_equal(predict(problem, result.images)[moved], targets[moved])


@pytest.mark.slow
def test_restarts_keep_the_closest():
  problem = toy('l2', 0.3)
  options = {'steps': 3, 'random_start': True, 'key': jax.random.key(0)}
  one = pgd(problem, **options)
  three = pgd(problem, restarts=3, **options)
  assert (three.distance <= one.distance).all() and (three.distance < one.distance).any()
  fooled = predict(problem, three.images) != problem.labels
  np.testing.assert_array_equal(fooled, three.success)


@pytest.mark.slow
@pytest.mark.parametrize('norm', BUDGET)
def test_random_starts_fill_the_ball(norm):
  keys = jax.random.split(jax.random.key(0), 200)
  images = jnp.zeros((200, 2, 1, 1))
  away = distance(random_delta(keys, 0, images, 2.0, norm), norm)
  assert (away <= 2).all()
  # Uniform in two dimensions: half of the points lie within 1 / sqrt(2) of the radius.
  assert abs(float(jnp.mean(away < 2 / 2**0.5)) - 0.5) < 0.1


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch():
  problem = toy('linf', 0.05)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(20))
  options = {'steps': 4, 'random_start': True}
  whole = pgd(problem, key=jax.random.key(0), **options)
  halves = slice(10), slice(10, 20)
  parts = [pgd(problem.take(half), key=keys[half], **options) for half in halves]
  parts = jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)
  np.testing.assert_array_equal(whole.success, parts.success)
  np.testing.assert_allclose(whole.images, parts.images, atol=1e-6)


@pytest.mark.slow
def test_one_program_serves_all_budgets_and_weights():
  problem = toy('linf')
  traces = []

  def apply(params, x):
    traces.append(x.shape)
    return problem.classifier.apply(params, x)

  counts = []
  for scale in (1.0, 1.1):
    params = jax.tree.map(lambda p, s=scale: p * s, problem.classifier.params)
    for epsilon in (0.01, 0.02):
      pgd(problem.replace(classifier=Classifier(apply, params), epsilon=epsilon), steps=2)
      counts.append(len(traces))
  assert counts == [counts[0]] * 4


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'steps': 0}, 'steps=0 is not allowed: give a whole number of at least 1'),
    ({'step_size': 0.0}, 'step_size=0.0'),
    ({'loss': 'hinge'}, "loss='hinge' is not allowed: give one of 'cross_entropy', 'margin'"),
    ({'protocol': 'stop'}, "protocol='stop'"),
    ({'restart': 2}, "no option 'restart': did you mean 'restarts'"),
    ({'restarts': 0}, 'restarts=0'),
    ({'restarts': 2}, 'set random_start=True'),
    ({'random_start': True}, 'needs a key'),
    ({'random_start': True, 'start': 0.0}, 'exclude each other'),
  ],
)
def test_bad_input(options, message):
  with pytest.raises(UserError, match=message):
    pgd(toy('l2', 0.1), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('norm', 'epsilon', 'message'),
  [
    ('l2', 0, 'epsilon=0 is not allowed: give a number greater than 0'),
    ('l2', -0.1, 'epsilon=-0.1'),
    ('l2', float('nan'), 'epsilon=nan'),
    ('l3', 0.1, "norm='l3' is not allowed"),
  ],
)
def test_bad_budgets(norm, epsilon, message):
  with pytest.raises(UserError, match=message):
    toy(norm, epsilon)


@pytest.mark.slow
@pytest.mark.parametrize(('norm', 'epsilon'), [('l1', 0.1), ('l2', float('inf'))])
def test_what_is_no_budget_for_pgd(norm, epsilon):
  with pytest.raises(UserError, match='needs l2 or linf and a budget'):
    pgd(toy(norm, epsilon))


@pytest.mark.slow
def test_images_must_be_floats_with_one_label_each():
  problem = toy()
  classifier, images, labels = problem.classifier, problem.images, problem.labels
  with pytest.raises(UserError, match='divide by 255'):
    Problem.of(classifier, (255 * images).astype(jnp.uint8), labels, norm='l2')
  with pytest.raises(UserError, match='one integer for each of the 20 images'):
    Problem.of(classifier, images, labels[:3], norm='l2')
