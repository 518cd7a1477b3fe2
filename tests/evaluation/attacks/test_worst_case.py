from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation.attacks import Attacked, auto_attacks, pgd, worst_case
from clr_jax.evaluation.attacks.norms import distance
from tests.evaluation.attacks.toy import predict, toy

KEY = jax.random.key(0)
SHORT = {'steps': 6, 'targets': 2, 'queries': 20}


@pytest.mark.parametrize(('norm', 'epsilon'), [('linf', 0.03), ('l2', 0.25)])
def test_worst_case_is_the_union(norm, epsilon):
  classifier, images, labels = toy(21)
  attacks = auto_attacks(norm=norm, epsilon=epsilon, **SHORT)
  assert list(attacks) == ['apgd-ce', 'apgd-t', 'square']
  result = worst_case(classifier, images, labels, attacks=attacks, batch_size=8, key=KEY)
  np.testing.assert_array_equal(
    np.asarray(predict(classifier, result.images)) != labels, result.success
  )
  away = np.asarray(distance(jnp.asarray(result.images) - images, norm))
  assert (away <= epsilon * (1 + 1e-5)).all()
  np.testing.assert_allclose(away, np.where(result.success, result.distance, 0), rtol=1e-5)
  assert np.isinf(result.distance[~result.success]).all()
  np.testing.assert_array_equal(result.broken_by == '', ~result.success)
  np.testing.assert_array_equal(result.broken_by == 'clean', result.distance == 0)
  assert result.broken_by[-1] == 'clean' and 'apgd-ce' in result.broken_by
  assert 1 < result.success.sum() < 21


def test_attacks_see_only_what_stands_in_batches_of_one_shape():
  classifier, images, labels = toy(11)
  seen = []

  def first_pixel(limit):
    def attack(classifier, images, labels, *, key):
      assert key.shape == labels.shape == (4,)
      seen.append((limit, np.asarray(images[:, 0, 0, 0])))
      hit = jnp.asarray(images[:, 0, 0, 0] < limit)
      return Attacked(jnp.asarray(images), hit, jnp.where(hit, 1.0, jnp.inf))

    return attack

  result = worst_case(
    classifier, images, labels, batch_size=4, key=KEY,
    attacks={'low': first_pixel(0.4), 'high': first_pixel(0.8)},
  )  # fmt: skip
  pixel = np.asarray(images[:, 0, 0, 0])
  expected = np.select([pixel < 0.4, pixel < 0.8], ['low', 'high'], '').astype(object)
  expected[-1] = 'clean'
  np.testing.assert_array_equal(result.broken_by, expected)
  assert set(expected) == {'', 'clean', 'high', 'low'}
  shown = np.concatenate([pixels for limit, pixels in seen if limit == 0.8])
  np.testing.assert_array_equal(np.unique(shown), np.unique(pixel[:-1][pixel[:-1] >= 0.4]))


def test_any_attack_can_take_part_and_results_do_not_depend_on_the_batch():
  classifier, images, labels = toy(21)
  attacks = {
    f'pgd {epsilon}': partial(pgd, norm='l2', epsilon=epsilon, steps=4, random_start=True)
    for epsilon in (0.2, 0.5)
  }
  first, other = (
    worst_case(classifier, images, labels, attacks=attacks, batch_size=size, key=KEY)
    for size in (8, 21)
  )
  assert {'clean', 'pgd 0.2', 'pgd 0.5'} <= set(first.broken_by)
  np.testing.assert_array_equal(first.broken_by, other.broken_by)
  np.testing.assert_allclose(first.images, other.images, atol=1e-5)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (partial(auto_attacks, norm='l2', epsilon=0), 'leaves no room'),
    (partial(auto_attacks, norm='l1', epsilon=1), 'unknown norm'),
    (partial(worst_case, *toy(2), attacks={}, batch_size=2, key=KEY), 'at least one attack'),
    (partial(worst_case, *toy(2), attacks={'pgd': pgd}, batch_size=0, key=KEY), 'batches of 0'),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(UserError, match=message):
    call()
