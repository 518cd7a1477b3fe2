"""REAL's selections against loops. The published rule's numbers: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.losses.global_contrastive import estimate
from clr_jax.losses.retrieval import (
  distances,
  hardest_negatives,
  select_hardest,
  select_in_radius,
)
from clr_jax.losses.scores import Scores


def unit_rows(seed, size=6, dim=4):
  rows = np.random.default_rng(seed).normal(size=(2, size, dim))
  return tuple(np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), 'float32'))


@pytest.mark.parametrize('as_published', [False, True])
@pytest.mark.parametrize('radius', [0.0, 0.2, 0.35, 0.6, 1.1])
def test_radius(as_published, radius):
  select = jax.jit(select_in_radius, static_argnames='as_published')
  for seed in range(3):
    q, k = unit_rows(seed)
    distance = np.linalg.norm(q[:, None] - k[None], axis=-1)
    pairs = [(i, j) for i in range(6) for j in range(6) if as_published or i != j]
    expected = list(dict.fromkeys(j for i, j in pairs if distance[i, j] <= 2 * radius))
    order, count, new = select(q, k, jnp.float32(radius), as_published=as_published)
    assert sorted(np.asarray(order)) == list(range(6))
    np.testing.assert_array_equal(order[:count], expected or range(6))
    total = sum(distance[p] for p in pairs)
    divisor = 6 * 4 if as_published else len(pairs)
    np.testing.assert_allclose(new, total / divisor / 2, rtol=1e-5)


def test_an_image_does_not_select_its_own_key():
  """Pairs far from each other, keys on their queries: only the published rule takes them."""
  q = jnp.eye(4)
  _, count, _ = select_in_radius(q, q, jnp.float32(0.1), as_published=True)
  assert count == 4
  q, k = jnp.eye(4), jnp.eye(4).at[2].set(jnp.eye(4)[1])  # key 2 lies on query 1
  order, count, _ = select_in_radius(q, k, jnp.float32(0.1))
  assert count == 1 and order[0] == 2
  np.testing.assert_array_equal(select_hardest(q, k, 0.25), [2])


@pytest.mark.parametrize('fraction, count', [(1e-3, 1), (0.5, 3), (0.51, 4), (1.0, 6)])
def test_fraction(fraction, count):
  q, k = unit_rows(0)
  scores = q @ k.T - 4 * np.eye(6)
  expected = np.sort(np.argsort(-scores.max(0))[:count])
  np.testing.assert_array_equal(select_hardest(q, k, fraction), expected)


def test_hardest_negatives_carry_all_of_the_loss():
  rng = np.random.default_rng(0)
  negative = jnp.asarray(rng.uniform(-1, 1, [3, 2, 7]), 'float32')
  where = jnp.asarray(rng.random([3, 2, 7]) < 0.8)
  positive, log_u = jnp.ones([3, 2]), jnp.zeros(3)

  def loss(negative, count=4):
    scores = hardest_negatives(Scores(positive, negative), count)
    return estimate(scores, log_u).per_example.sum()

  grad = np.asarray(jax.jit(jax.grad(loss))(negative))
  rank = np.argsort(np.argsort(-np.asarray(negative), -1), -1)
  np.testing.assert_array_equal(grad != 0, rank < 4)

  @jax.jit
  def both(scores):
    return estimate(scores, log_u), estimate(hardest_negatives(scores, 7), log_u)

  whole, sorted_ = both(Scores(positive, negative, where))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, sorted_)


@pytest.mark.parametrize('distance', ['cosine', 'manhattan'])
def test_other_distances(distance):
  q, k = unit_rows(4)
  pairs = np.asarray(q, 'float64')[:, None], np.asarray(k, 'float64')[None]
  if distance == 'cosine':
    expected = 1 - (pairs[0] * pairs[1]).sum(-1)
  else:
    expected = np.abs(pairs[0] - pairs[1]).sum(-1)
  np.testing.assert_allclose(distances(q, k, distance), expected, atol=1e-6)
  far = np.where(np.eye(6, dtype=bool), np.inf, expected)
  nearest = np.sort(np.argsort(far.min(0))[:3])
  np.testing.assert_array_equal(select_hardest(q, k, 0.5, distance=distance), nearest)
  radius = jnp.float32(np.sort(far.ravel())[4] / 2 + 1e-4)
  order, count, new = select_in_radius(q, k, radius, distance=distance)
  assert set(np.asarray(order[:count])) == set(np.flatnonzero((far <= 2 * radius).any(0)))
  np.testing.assert_allclose(new, expected[~np.eye(6, dtype=bool)].mean() / 2, rtol=1e-5)
