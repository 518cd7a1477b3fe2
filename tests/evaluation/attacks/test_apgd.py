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


def test_checkpoints_are_those_of_the_published_code():
  # k = 22, then k - 3 down to 6: Croce and Hein's schedule for 100 iterations.
  assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
  assert checkpoints(1) == [1]


@pytest.mark.parametrize('norm', BUDGET)
@pytest.mark.parametrize('loss', ['cross_entropy', 'dlr'])
def test_invariants_of_the_published_algorithm(norm, loss):
  classifier, images, labels = toy()
  epsilon = BUDGET[norm]
  states = list(
    apgd_steps(classifier, images, labels, norm=norm, epsilon=epsilon, steps=30, loss=loss, key=KEY)
  )
  np.testing.assert_allclose(states[0].step_size, 2 * epsilon, rtol=1e-6)
  for step, (before, after) in enumerate(itertools.pairwise(states), 1):
    assert (distance(after.point - images, norm) <= epsilon * (1 + 1e-5)).all()
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


def test_result():
  classifier, images, labels = toy()
  result = apgd(classifier, images, labels, norm='l2', epsilon=0.3, steps=10, key=KEY)
  wrong = predict(classifier, images) != labels
  np.testing.assert_array_equal(predict(classifier, result.images) != labels, result.success)
  np.testing.assert_array_equal(result.distance == 0, wrong)
  np.testing.assert_array_equal(jnp.isinf(result.distance), ~result.success)
  np.testing.assert_array_equal(result.images[wrong], images[wrong])
  twice = apgd(classifier, images, labels, norm='l2', epsilon=0.3, steps=10, restarts=2, key=KEY)
  assert (twice.distance <= result.distance).all() and (twice.distance < result.distance).any()


@pytest.mark.parametrize('norm', BUDGET)
def test_breaks_what_pgd_breaks(norm):
  classifier, images, labels = toy()
  options = {'norm': norm, 'epsilon': BUDGET[norm] / 2, 'steps': 20}
  plain = pgd(classifier, images, labels, **options)
  either = apgd(classifier, images, labels, key=KEY, **options).success
  either |= apgd_targeted(classifier, images, labels, key=KEY, **options).success
  assert (either >= plain.success).all()
  assert 1 < int(either.sum()) < 20


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


def test_the_targeted_loss_falls_short_only_of_the_target():
  classifier, images, labels = toy()
  targets = (labels + 2) % 5
  result = apgd(
    classifier, images, labels, norm='l2', epsilon=2.0, steps=20, loss='dlr', targets=targets,
    key=KEY,
  )  # fmt: skip
  assert result.success.all()
  *_, state = apgd_steps(
    classifier, images, labels, norm='l2', epsilon=2.0, steps=20, loss='dlr', targets=targets,
    key=KEY,
  )  # fmt: skip
  logits = logits_of(*classifier, state.best)
  reached = jnp.take_along_axis(logits, targets[:, None], 1) > jnp.take_along_axis(
    logits, labels[:, None], 1
  )
  assert reached.mean() > 0.9


def test_the_targeted_attack_does_not_depend_on_who_shares_the_batch():
  """An image that fell to its first class keeps that point while others go on."""
  classifier, images, labels = toy(12)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(12))

  def attack(part):
    return apgd_targeted(
      classifier, images[part], labels[part], norm='l2', epsilon=0.5, steps=6, key=keys[part]
    ).distance

  alone = np.concatenate([attack(slice(i, i + 1)) for i in range(12)])
  assert np.isinf(alone).any() and (alone > 0).any()
  np.testing.assert_allclose(attack(slice(None)), alone, rtol=1e-5)


@pytest.mark.parametrize(
  ('attack', 'options', 'message'),
  [
    (apgd, {'epsilon': 0}, 'leaves no room'),
    (apgd, {'steps': 0}, 'steps=0'),
    (apgd, {'loss': 'margin'}, "unknown APGD loss 'margin'"),
    (apgd, {'restarts': 0}, 'restarts=0'),
    (apgd, {'key': None}, 'needs a key'),
    (apgd_targeted, {'targets': 0}, 'targets=0'),
  ],
)
def test_bad_input(attack, options, message):
  classifier, images, labels = toy()
  with pytest.raises(UserError, match=message):
    attack(classifier, images, labels, **{'norm': 'l2', 'epsilon': 0.1, 'key': KEY, **options})


def test_too_few_classes():
  classifier, images, labels = toy(4, classes=3)
  with pytest.raises(UserError, match='needs 4 classes, not 3'):
    apgd_targeted(classifier, images, labels, norm='l2', epsilon=0.1, key=KEY)
