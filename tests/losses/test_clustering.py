"""SwAV's loss and assignments: identities. The numbers: tests/golden (c_swav)."""

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.losses import clustering as losses
from tests.losses._cases import compiled, same

assignments, swav = compiled(losses.assignments), compiled(losses.swav)

SCORES = jax.random.uniform(jax.random.key(0), [6, 3, 4], minval=-1.0)
QUEUE = jax.random.uniform(jax.random.key(1), [2, 5, 4], minval=-1.0)


def test_a_view_is_never_compared_with_itself_and_codes_get_no_gradient():
  codes = assignments(SCORES[:, :2])
  grads = jax.grad(lambda s, q: swav(s, q).sum(), argnums=(0, 1))(SCORES, codes)
  assert np.abs(grads[0]).max() > 0
  np.testing.assert_array_equal(grads[1], 0)
  pairs = swav(SCORES, codes)
  np.testing.assert_array_equal(np.asarray(pairs) != 0, ~np.eye(2, 3, dtype=bool))


def test_agreeing_views_are_best_and_equal_scores_give_log_k():
  codes = jax.nn.one_hot(jnp.arange(6) % 4, 4)[:, None].repeat(2, 1)
  agreeing = swav(2 * codes, codes).sum()
  assert agreeing < 1e-6 < swav(2 * codes[::-1], codes).sum()
  equal = swav(jnp.zeros([6, 2, 4]), codes)
  same(equal, np.log(4) * (1 - np.eye(2)))


def test_each_view_is_assigned_with_its_own_queue_or_without():
  without = assignments(SCORES[:, :2])
  unused = assignments(SCORES[:, :2], QUEUE, use_queue=jnp.asarray(False))
  same(unused, without)
  used = assignments(SCORES[:, :2], QUEUE)
  assert np.abs(used - without).max() > 1e-3
  alone = assignments(SCORES[:, 1:2], QUEUE[1:])
  same(used[:, 1:], alone)
  same(assignments(SCORES[:, :2], QUEUE[:, ::-1]), used)  # no order in the queue
