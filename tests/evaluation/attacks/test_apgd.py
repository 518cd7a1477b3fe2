import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation.attacks import apgd, apgd_targeted, pgd
from clr_jax.evaluation.attacks.apgd import apgd_steps, checkpoints
from clr_jax.evaluation.attacks.base import logits_of
from clr_jax.evaluation.attacks.losses import dlr
from clr_jax.evaluation.attacks.norms import distance
from tests.evaluation.attacks.toy import predict, toy

BUDGET = {'l2': 0.4, 'linf': 0.05}
KEY = jax.random.key(0)


@pytest.mark.slow
def test_checkpoints_are_those_of_the_published_code():
  # k = 22, then k - 3 down to 6: Croce and Hein's schedule for 100 iterations.
  assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
  assert checkpoints(1) == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('norm', 'loss'),
  [
    ('l2', 'dlr'),
    pytest.param('linf', 'cross_entropy', marks=pytest.mark.slow),
    pytest.param('l2', 'cross_entropy', marks=pytest.mark.weekly),
    pytest.param('linf', 'dlr', marks=pytest.mark.weekly),
  ],
)
def test_invariants_of_the_published_algorithm(norm, loss):
  epsilon = BUDGET[norm]
  problem = toy(norm, epsilon)
  states = list(apgd_steps(problem, KEY, steps=30, loss=loss))
  np.testing.assert_allclose(states[0].step_size, 2 * epsilon, rtol=1e-6)
  for step, (before, after) in enumerate(itertools.pairwise(states), 1):
    assert (distance(after.point - problem.images, norm) <= epsilon * (1 + 1e-5)).all()
    assert (after.point >= 0).all() and (after.point <= 1).all()
    assert (after.best_loss >= before.best_loss).all()
    assert (after.best_loss >= after.loss).all()
    assert (after.found.distance <= before.found.distance).all()
    halved = after.step_size != before.step_size
    np.testing.assert_array_equal(after.step_size[halved], before.step_size[halved] / 2)
    if step not in checkpoints(30):
      assert not halved.any()
    np.testing.assert_array_equal(after.point[halved], after.best[halved])
  assert (states[-1].step_size < states[0].step_size).all()
  assert (states[-1].best_loss > states[0].loss)[:-1].all()


@pytest.mark.slow
def test_result():
  problem = toy('l2', 0.3)
  result = apgd(problem, steps=10, key=KEY)
  wrong = predict(problem, problem.images) != problem.labels
  fooled = predict(problem, result.images) != problem.labels
  np.testing.assert_array_equal(fooled, result.success)
  np.testing.assert_array_equal(result.distance == 0, wrong)
  np.testing.assert_array_equal(jnp.isinf(result.distance), ~result.success)
  np.testing.assert_array_equal(result.images[wrong], problem.images[wrong])
  twice = apgd(problem, steps=10, restarts=2, key=KEY)
  assert (twice.distance <= result.distance).all() and (twice.distance < result.distance).any()


@pytest.mark.slow
@pytest.mark.parametrize('norm', BUDGET)
def test_breaks_what_pgd_breaks(norm):
  problem = toy(norm, BUDGET[norm] / 2)
  plain = pgd(problem, steps=20)
  either = apgd(problem, key=KEY, steps=20).success
  either |= apgd_targeted(problem, key=KEY, steps=20).success
  assert (either >= plain.success).all()
  assert 1 < int(either.sum()) < 20


@pytest.mark.slow
def test_dlr_by_hand_and_its_scale():
  logits = jnp.array([[3.0, 1.0, 2.0, 0.0, -1.0], [3.0, 1.0, 2.0, 0.0, -1.0]])
  labels, goal = jnp.array([0, 1]), jnp.array([3, 4])
  # sorted 3 2 1 0 -1: -(3 - 2) / (3 - 1), -(1 - 3) / (3 - 1)
  np.testing.assert_allclose(dlr(logits, labels, goal, False), [-0.5, 1.0])
  # -(3 - 0) / (3 - .5), -(1 + 1) / (3 - .5)
  np.testing.assert_allclose(dlr(logits, labels, goal, True), [-1.2, -0.8])
  for targeted in (False, True):
    np.testing.assert_allclose(
      dlr(100 * logits, labels, goal, targeted), dlr(logits, labels, goal, targeted), rtol=1e-6
    )


@pytest.mark.slow
def test_the_targeted_loss_falls_short_only_of_the_target():
  problem = toy('l2', 2.0)
  targets = (problem.labels + 2) % 5
  options = {'steps': 20, 'loss': 'dlr', 'targets': targets}
  assert apgd(problem, key=KEY, **options).success.all()
  *_, state = apgd_steps(problem, KEY, **options)
  logits = logits_of(problem.classifier, state.best)
  reached = jnp.take_along_axis(logits, targets[:, None], 1) > jnp.take_along_axis(
    logits, problem.labels[:, None], 1
  )
  assert reached.mean() > 0.9


@pytest.mark.slow
def test_the_targeted_attack_does_not_depend_on_who_shares_the_batch():
  """An image that fell to its first class keeps that point while others go on."""
  problem = toy('l2', 0.5, size=12)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(12))

  def attack(part):
    return apgd_targeted(problem.take(part), steps=6, key=keys[part]).distance

  alone = np.concatenate([attack(slice(i, i + 1)) for i in range(12)])
  assert np.isinf(alone).any() and (alone > 0).any()
  np.testing.assert_allclose(attack(slice(None)), alone, rtol=1e-5)


@pytest.mark.parametrize(
  ('attack', 'options', 'message'),
  [
    (apgd, {'steps': 0}, 'steps=0'),
    (apgd, {'loss': 'margin'}, "loss='margin' is not allowed: give one of 'cross_entropy', 'dlr'"),
    (apgd, {'restarts': 0}, 'restarts=0'),
    (apgd, {'key': None}, 'needs a key'),
    (apgd_targeted, {'targets': 0}, 'targets=0'),
  ],
)
def test_bad_input(attack, options, message):
  with pytest.raises(UserError, match=message):
    attack(toy('l2', 0.1), **{'key': KEY, **options})


@pytest.mark.slow
@pytest.mark.parametrize('attack', [apgd, apgd_targeted])
def test_without_a_budget(attack):
  with pytest.raises(UserError, match='needs l2 or linf and a budget'):
    attack(toy(), key=KEY)


@pytest.mark.slow
def test_too_few_classes():
  with pytest.raises(UserError, match='needs 4 classes, not 3'):
    apgd_targeted(toy('l2', 0.1, size=4, classes=3), key=KEY)
