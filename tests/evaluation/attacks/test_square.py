import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation.attacks import square
from clr_jax.evaluation.attacks.norms import distance
from clr_jax.evaluation.attacks.squares import bump, paint, side_of, starts
from tests.evaluation.attacks.toy import network, predict, toy

BUDGET = {'linf': 0.06, 'l2': 0.4}
SHAPE = (7, 6, 2)
KEY = jax.random.key(0)


def without_gradient(params, images):
  return network(params, jax.lax.stop_gradient(images))


@pytest.mark.slow
@pytest.mark.parametrize('norm', BUDGET)
def test_breaks_without_gradients(norm):
  problem = toy(norm, BUDGET[norm], shape=SHAPE)
  masked = problem.replace(classifier=problem.classifier.replace(apply=without_gradient))
  result = square(masked, queries=100, key=KEY)
  fooled = predict(problem, result.images) != problem.labels
  np.testing.assert_array_equal(fooled, result.success)
  assert (distance(result.images - problem.images, norm) <= BUDGET[norm] * (1 + 1e-5)).all()
  assert (result.images >= 0).all() and (result.images <= 1).all()
  few = square(masked, queries=1, key=KEY)
  assert int(few.success.sum()) + 3 < int(result.success.sum())


@pytest.mark.slow
@pytest.mark.parametrize('norm', BUDGET)
def test_a_query_changes_squares_only_and_uses_the_whole_budget(norm):
  keys = jax.random.split(KEY, 50)
  images = jnp.full((50, *SHAPE), 0.5)
  point = starts(keys, images, 0.1, norm)
  np.testing.assert_allclose(distance(point - images, norm), 0.1, rtol=1e-4)
  next_keys = jax.random.split(jax.random.key(1), 50)
  after = paint(next_keys, point, images, 0.1, 3, bump(3, 7), norm)
  np.testing.assert_allclose(distance(after - images, norm), 0.1, rtol=1e-4)
  # In l2 all pixels are scaled to the budget; outside of the windows their ratios remain.
  ratio = np.asarray((after - images) / (point - images))
  for row in ratio:
    _, counts = np.unique(row.round(3), return_counts=True)
    assert counts.max() >= row.size - 2 * 9 * 2
  assert (ratio < 0).any()


@pytest.mark.slow
def test_bumps_have_unit_norm_and_two_signs():
  for side in (3, 5, 7):
    values = bump(side, 9)
    assert np.linalg.norm(values) == pytest.approx(1)
    assert (values[: side // 2, :side] > 0).all() and (values[side // 2 : side, :side] < 0).all()
    assert not values[side:].any() and not values[:, side:].any()


@pytest.mark.slow
def test_squares_shrink_as_published():
  # p = .8, halved after 10, 50, 200, ... of 10,000 queries; side = round(sqrt(p h w)).
  queries = (0, 11, 51, 8001)
  assert [side_of(q, 10000, 0.8, (32, 32), 'linf') for q in queries] == [29, 20, 14, 1]
  assert [side_of(q, 10000, 0.8, (32, 32), 'l2') for q in queries] == [29, 21, 15, 3]
  assert side_of(0, 10, 0.8, (8, 4), 'linf') == 4 and side_of(0, 10, 0.8, (8, 4), 'l2') == 3


@pytest.mark.slow
@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'queries': 0}, 'queries=0'),
    ({'share': 1.5}, 'share=1.5'),
    ({'key': None}, 'needs a key'),
  ],
)
def test_bad_input(options, message):
  with pytest.raises(UserError, match=message):
    square(toy('l2', 0.1, size=2, shape=SHAPE), **{'key': KEY, **options})


def test_what_is_no_problem_for_squares():
  problem = toy('l2', 0.1, size=2, shape=SHAPE)
  with pytest.raises(UserError, match='at least 3 by 3'):
    square(problem.replace(images=problem.images[:, :2]), key=KEY)
  with pytest.raises(UserError, match='needs l2 or linf and a budget'):
    square(problem.replace(norm='l1'), key=KEY)
