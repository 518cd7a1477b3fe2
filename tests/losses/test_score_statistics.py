"""Statistics of scores against numpy; the golden archive b_stats has the reference's numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clr_jax.losses import score_statistics as statistics
from clr_jax.losses.scores import Scores, ScoreSets, log_denominator, score_sets

EDGES = np.linspace(-1, 1, 9).astype(np.float32)
SHAPE = (8, 2, 5)


def numpys(values, where):
  kept = values[where & ~np.isnan(values)]
  inside, _ = np.histogram(kept, EDGES)
  return [np.sum(kept < EDGES[0]), *inside, np.sum(kept > EDGES[-1])]


count = jax.jit(lambda values, where: statistics.histogram(values, EDGES, where))


# Values on edges, at the ends and beyond them.
@settings(deadline=None, max_examples=30)
@given(
  st.lists(st.sampled_from([*EDGES.tolist(), -9.0, 3.0, 0.1, np.nan, np.inf]), min_size=80),
  st.integers(0, 2**32 - 1),
)
def test_histogram_is_numpys(values, seed):
  values = np.float32(values[:80]).reshape(SHAPE)
  where = np.random.default_rng(seed).random(SHAPE) < 0.7
  np.testing.assert_array_equal(count(values, where), numpys(values, where))


def test_histogram_of_sharded_scores():
  values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
  where = values > -1.2
  sharding = NamedSharding(Mesh(np.array(jax.devices()), 'data'), PartitionSpec('data'))
  found = count(*(jax.device_put(x, sharding) for x in (values, where)))
  np.testing.assert_array_equal(found, numpys(values, where))


def test_an_anchor_without_negatives_or_positives_counts_nowhere(x64):
  rng = np.random.default_rng(0)
  positive, negative = rng.uniform(-1, 1, [4, 3]), rng.uniform(-1, 1, [4, 6])
  positive_where, negative_where = np.ones([4, 3], bool), np.ones([4, 6], bool)
  positive_where[1], negative_where[2] = False, False

  arrays: list[Any] = [positive, negative, positive_where, negative_where]

  def found(rows):
    return of_sets(*(x[rows] for x in arrays))

  @jax.jit
  def of_sets(*arrays):
    sets = ScoreSets(*arrays, temperature=0.2)
    return statistics.series(statistics.score_rows(sets)), statistics.responses(sets)

  series, (pull, push) = found(slice(None))
  np.testing.assert_allclose(series['pos_mean'], found([0, 2, 3])[0]['pos_mean'])
  np.testing.assert_allclose(series['neg_var'], found([0, 1, 3])[0]['neg_var'])
  np.testing.assert_allclose(pull, found([0, 2, 3])[1][0])
  np.testing.assert_allclose(push, found([0, 3])[1][1])


def test_sets_of_directions_are_joined_with_a_temperature_for_each_example():
  rng = np.random.default_rng(0)
  one, other = (
    Scores(jnp.asarray(rng.normal(size=[4, 1])), jnp.asarray(rng.normal(size=[4, 1, 3])))
    for _ in range(2)
  )
  tau = jnp.array([0.1, 0.2, 0.3, 0.4])
  sets = score_sets(one, other, temperature=tau)
  assert sets.positive.shape == (4, 2, 1) and sets.negative.shape == (4, 2, 3)
  terms = np.concatenate([sets.positive, sets.negative], -1) / tau[:, None, None]
  np.testing.assert_allclose(log_denominator(sets), np.log(np.exp(terms).sum(-1)), rtol=1e-5)


def test_alignment_and_uniformity_of_known_points():
  square = jnp.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
  alignment, uniformity = jax.jit(statistics.alignment), jax.jit(statistics.uniformity)
  assert alignment(square, square) == 0
  assert alignment(square, -square) == 4
  expected = np.log((2 * np.exp(-4) + np.exp(-8)) / 3)
  np.testing.assert_allclose(uniformity(square), expected, rtol=1e-6)
  assert uniformity(square[:1].repeat(3, 0)) == pytest.approx(0, abs=1e-6)
