from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation.attacks import AttackResult, auto_attacks, pgd, worst_case
from clr_jax.evaluation.attacks.norms import distance
from tests.evaluation.attacks.toy import predict, toy

KEY = jax.random.key(0)
SHORT = {'steps': 6, 'targets': 2, 'queries': 20}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('norm', 'epsilon'), [pytest.param('linf', 0.03, marks=pytest.mark.slow), ('l2', 0.25)]
)
def test_worst_case_is_the_union(norm, epsilon):
  problem = toy(norm, epsilon, size=21)
  attacks = auto_attacks(**SHORT)
  assert list(attacks) == ['apgd-ce', 'apgd-t', 'square']
  result = worst_case(problem, attacks=attacks, batch_size=8, key=KEY)
  fooled = predict(problem, result.images) != problem.labels
  np.testing.assert_array_equal(fooled, result.success)
  away = np.asarray(distance(jnp.asarray(result.images) - problem.images, norm))
  assert (away <= epsilon * (1 + 1e-5)).all()
  np.testing.assert_allclose(away, np.where(result.success, result.distance, 0), rtol=1e-5)
  assert np.isinf(result.distance[~result.success]).all()
  np.testing.assert_array_equal(result.broken_by_attack == '', ~result.success)
  np.testing.assert_array_equal(result.broken_by_attack == 'clean', result.distance == 0)
  assert result.broken_by_attack[-1] == 'clean' and 'apgd-ce' in result.broken_by_attack
  assert 1 < result.success.sum() < 21


def test_attacks_see_only_what_stands_in_batches_of_one_shape():
  problem = toy(size=11)
  seen = []

  def first_pixel(limit):
    def attack(problem, *, key):
      assert key.shape == problem.labels.shape == (4,)
      pixel = problem.images[:, 0, 0, 0]
      seen.append((limit, np.asarray(pixel)))
      hit = pixel < limit
      return AttackResult(problem.images, hit, jnp.where(hit, 1.0, jnp.inf))

    return attack

  result = worst_case(
    problem, batch_size=4, key=KEY, attacks={'low': first_pixel(0.4), 'high': first_pixel(0.8)}
  )
  pixel = np.asarray(problem.images[:, 0, 0, 0])
  expected = np.select([pixel < 0.4, pixel < 0.8], ['low', 'high'], '').astype(object)
  expected[-1] = 'clean'
  np.testing.assert_array_equal(result.broken_by_attack, expected)
  assert set(expected) == {'', 'clean', 'high', 'low'}
  shown = np.concatenate([pixels for limit, pixels in seen if limit == 0.8])
  np.testing.assert_array_equal(np.unique(shown), np.unique(pixel[:-1][pixel[:-1] >= 0.4]))


@pytest.mark.slow
def test_any_attack_can_take_part_and_results_do_not_depend_on_the_batch():
  attacks = {
    f'pgd {steps}': partial(pgd, steps=steps, step_size=0.1, random_start=True) for steps in (2, 8)
  }
  problem = toy('l2', 0.5, size=21)
  first, other = (
    worst_case(problem, attacks=attacks, batch_size=size, key=KEY) for size in (8, 21)
  )
  assert {'clean', 'pgd 2', 'pgd 8'} <= set(first.broken_by_attack)
  np.testing.assert_array_equal(first.broken_by_attack, other.broken_by_attack)
  np.testing.assert_allclose(first.images, other.images, atol=1e-5)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: auto_attacks(steps=0), 'steps=0'),
    (lambda: worst_case(toy(size=2), attacks={}, batch_size=2, key=KEY), '0 attacks on 2 images'),
    (lambda: worst_case(toy(size=2), attacks={'pgd': pgd}, batch_size=0, key=KEY), 'batch_size=0'),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(UserError, match=message):
    call()
