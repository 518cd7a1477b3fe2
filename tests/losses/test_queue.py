"""Losses against a queue: identities and zero gradients. The numbers: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

from clr_jax.losses import queue as losses
from clr_jax.ops.similarity import l2_normalize
from tests.losses._cases import batches, compiled, same

queue_infonce, queue_logits = compiled(losses.queue_infonce), compiled(losses.queue_logits)

QUEUE = l2_normalize(jax.random.normal(jax.random.key(3), [6, 4]))


@settings(max_examples=8, deadline=None)
@given(z=batches())
def test_infonce_is_cross_entropy_of_the_logits(z):
  q, k = z[:, 0], z[:, 1]
  logits = queue_logits(q, k, QUEUE, temperature=0.3)
  assert logits.shape == (len(z), 7)
  expected = jax.nn.logsumexp(logits, -1) - logits[:, 0]
  same(queue_infonce(q, k, QUEUE, temperature=0.3), expected)
  same(queue_infonce(2 * q, 7 * k, QUEUE, temperature=0.3), expected)
  units = queue_infonce(l2_normalize(q), l2_normalize(k), QUEUE, temperature=0.3, normalize=False)
  same(units, expected)


def test_the_positive_is_lower_than_the_same_key_in_the_queue():
  """Keys of the step in the queue would be negatives of their own queries."""
  q = l2_normalize(jax.random.normal(jax.random.key(0), [3, 4]))
  clean = queue_infonce(q, q, QUEUE)
  assert (queue_infonce(q, q, QUEUE.at[:3].set(q)) > clean).all()


def test_keys_and_queue_get_exactly_no_gradient():
  q, k = jax.random.normal(jax.random.key(0), [2, 3, 4])
  grads = jax.grad(lambda *x: queue_infonce(*x).sum(), argnums=(0, 1, 2))(q, k, QUEUE)
  assert np.abs(grads[0]).max() > 0
  np.testing.assert_array_equal(grads[1], 0)
  np.testing.assert_array_equal(grads[2], 0)


def test_finite_at_tiny_temperature():
  q, k = jax.random.normal(jax.random.key(0), [2, 3, 4])
  value, grad = jax.value_and_grad(lambda q: queue_infonce(q, k, QUEUE, temperature=1e-3).sum())(q)
  assert np.isfinite(value) and np.isfinite(grad).all()


def test_the_nearest_row_is_found_and_the_first_of_equals():
  np.testing.assert_array_equal(losses.nearest(QUEUE[jnp.array([4, 1])] * 3, QUEUE), [4, 1])
  doubled = jnp.concatenate([QUEUE, QUEUE])
  np.testing.assert_array_equal(losses.nearest(QUEUE, doubled), np.arange(6))
