"""Sinkhorn-Knopp: marginals, invariances, extreme scores. The numbers: tests/golden (c_swav)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.ops.sinkhorn import sinkhorn

SCORES = jax.random.uniform(jax.random.key(0), [12, 5], minval=-1.0)


def plain(scores, epsilon, iterations):
  """The official code's form in float64: exponentials, sums, divisions."""
  q = np.exp(np.asarray(scores, np.float64) / epsilon).T
  q /= q.sum()
  for _ in range(iterations):
    q /= q.sum(1, keepdims=True) * len(q)
    q /= q.sum(0, keepdims=True) * q.shape[1]
  return (q * q.shape[1]).T


@pytest.mark.parametrize('iterations', [1, 3])
@pytest.mark.parametrize('epsilon', [0.05, 0.5])
def test_equals_the_plain_form(epsilon, iterations):
  got = sinkhorn(SCORES, epsilon=epsilon, iterations=iterations)
  np.testing.assert_allclose(got, plain(SCORES, epsilon, iterations), rtol=1e-4, atol=1e-7)


def test_rows_sum_to_one_and_clusters_get_equal_shares_in_the_end():
  q = np.asarray(sinkhorn(SCORES, epsilon=0.5, iterations=100))
  np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)
  np.testing.assert_allclose(q.sum(0), 12 / 5, rtol=1e-4)
  few = np.asarray(sinkhorn(SCORES, iterations=1))
  np.testing.assert_allclose(few.sum(1), 1, rtol=1e-5)


def test_shifts_of_a_row_of_a_cluster_and_of_everything_do_not_matter():
  q = sinkhorn(SCORES)
  row, column = jnp.linspace(-1, 1, 12)[:, None], jnp.linspace(0, 2, 5)[None]
  ones = jnp.ones_like(SCORES)
  np.testing.assert_allclose(sinkhorn(SCORES + 3 * ones), q, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(sinkhorn(SCORES + column * ones), q, rtol=1e-4, atol=1e-6)
  # Rows are scaled after the clusters: a row's shift is gone only when both have converged.
  shifted = sinkhorn(SCORES + row * ones, epsilon=0.5, iterations=100)
  np.testing.assert_allclose(
    shifted, sinkhorn(SCORES, epsilon=0.5, iterations=100), rtol=1e-3, atol=1e-5
  )


def test_large_scores_and_far_clusters_stay_finite():
  scores = 100 * SCORES.at[:, 0].set(-1.0)  # exp(100 / .05) is no float, exp(-2000) is 0
  q = np.asarray(sinkhorn(scores, iterations=3))
  assert np.isfinite(q).all()
  np.testing.assert_allclose(q.sum(1), 1, rtol=1e-4)
  assert q[:, 0].sum() > 0.5  # the far cluster has its share
  half = sinkhorn(SCORES.astype(jnp.bfloat16))
  assert half.dtype == jnp.float32 and np.isfinite(half).all()


def test_rows_that_do_not_count_change_nothing():
  other = jax.random.normal(jax.random.key(1), [4, 5])
  where = jnp.arange(16) < 12
  q = sinkhorn(jnp.concatenate([SCORES, other]), where=where)
  np.testing.assert_allclose(q[:12], sinkhorn(SCORES), rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)
  stacked = sinkhorn(jnp.stack([SCORES, -SCORES]))
  np.testing.assert_allclose(stacked[1], sinkhorn(-SCORES), rtol=1e-5)


def test_assignments_carry_no_gradient():
  grad = jax.grad(lambda s: (sinkhorn(s) * jnp.arange(5.0)[None]).sum())(SCORES)
  np.testing.assert_array_equal(grad, 0)
