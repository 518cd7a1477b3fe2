"""MoCHi: what is hardest, constants, unit vectors, draws. The numbers: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.core.errors import UserError
from clr_jax.losses import mochi
from clr_jax.losses.scores import infonce, queue_scores
from clr_jax.ops.similarity import l2_normalize, similarity
from tests.losses._cases import same

SIZES = {'num_hard': 5, 'num_mixed': 7, 'num_query_mixed': 3}


@jax.jit
def problem(seed=0):
  keys = jax.random.split(jax.random.key(seed), 4)
  query, key, queue = (
    l2_normalize(jax.random.normal(k, shape))
    for k, shape in zip(keys, [(4, 8), (4, 8), (12, 8)], strict=False)
  )
  return query, key, queue, mochi.draw(keys[3], (4,), **SIZES)


@jax.jit
def mixed(query, queue, draws):
  return mochi.mix(query, queue[mochi.hardest(query, queue, SIZES['num_hard'])], draws)


@pytest.mark.slow
def test_hardest_ranks_each_query_by_its_own_similarities():
  query, _, queue, _ = problem()
  index = mochi.hardest(query.reshape(2, 2, 8), queue, 5)
  expected = np.argsort(-np.asarray(query @ queue.T), -1)[:, :5]
  np.testing.assert_array_equal(index.reshape(4, 5), expected)
  assert index.dtype == 'int32'


@pytest.mark.slow
def test_masked_rows_are_not_chosen():
  query, _, queue, _ = problem()
  best = mochi.hardest(query, queue, 1)
  where = jnp.arange(len(queue))[None] != best
  index = mochi.hardest(query, queue, 5, where=where)
  np.testing.assert_array_equal(index, mochi.hardest(query, queue, 6)[:, 1:])


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_mixtures_are_unit_vectors_near_what_they_are_made_of(seed):
  query, _, queue, draws = problem(seed)
  pairs, with_query = mixed(query, queue, draws)
  assert pairs.shape == (4, 7, 8) and with_query.shape == (4, 3, 8)
  for h in (pairs, with_query):
    same(jnp.linalg.norm(h, axis=-1), np.ones(h.shape[:-1]))
  hard = queue[mochi.hardest(query, queue, 5)]
  single = jnp.take_along_axis(hard, draws.single[..., None], 1)
  assert ((with_query - single) * query[:, None]).sum(-1).min() >= -1e-6  # harder than alone


@pytest.mark.slow
def test_mixtures_by_hand():
  hard = jnp.array([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
  weights = jnp.array([[0.25]])
  draws = mochi.Draws(jnp.array([[1]]), jnp.array([[2]]), weights, jnp.array([[2]]), weights)
  pairs, with_query = mochi.mix(jnp.array([[0.0, 1.0]]), hard, draws)
  expected = np.array([-0.75, 0.25]) / np.hypot(0.75, 0.25)
  same(pairs[0, 0], expected)
  same(with_query[0, 0], expected)


@pytest.mark.slow
def test_mixtures_are_constants():
  query, _, queue, draws = problem()

  def total(query, queue):
    pairs, with_query = mixed(query, queue, draws)
    return pairs.sum() + with_query.sum()

  for grad in jax.grad(total, argnums=(0, 1))(query, queue):
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.slow
def test_the_order_of_the_queue_does_not_matter():
  query, _, queue, draws = problem()
  shuffled = queue[np.random.default_rng(0).permutation(len(queue))]
  for a, b in zip(mixed(query, queue, draws), mixed(query, shuffled, draws), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_more_negatives_raise_the_loss(seed):
  query, key, queue, draws = problem(seed)
  scores, losses = queue_scores(query, key, queue), []
  for h in (None, *mixed(query, queue, draws)):
    if h is not None:
      added = similarity(query[:, None], h)[:, 0]
      scores = scores._replace(negative=jnp.concatenate([scores.negative, added], -1))
    losses.append(infonce(scores, temperature=0.2))
  assert (losses[1] > losses[0]).all() and (losses[2] > losses[1]).all()


@pytest.mark.slow
def test_draws_are_uniform_and_pairs_distinct():
  draws = mochi.draw(jax.random.key(0), (40, 10), num_hard=4, num_mixed=30, num_query_mixed=30)
  pairs = np.zeros([4, 4], int)
  np.add.at(pairs, (np.ravel(draws.first), np.ravel(draws.second)), 1)
  assert (np.diagonal(pairs) == 0).all()
  off = pairs[~np.eye(4, dtype=bool)]  # 12 000 pairs, 12 cells of 1000 +- 30
  assert off.min() > 880 and off.max() < 1120
  singles = np.bincount(np.ravel(draws.single), minlength=4)
  assert len(singles) == 4 and singles.min() > 2800
  for weight, top in ((draws.alpha, 1.0), (draws.beta, 0.5)):
    assert weight.min() >= 0 and weight.max() < top
    assert abs(weight.mean() - top / 2) < 0.01 * top
  assert draws.first.shape == (40, 10, 30)


@pytest.mark.slow
def test_either_kind_may_be_absent():
  query, _, queue, _ = problem()
  for sizes in ({'num_mixed': 0, 'num_query_mixed': 3}, {'num_mixed': 3, 'num_query_mixed': 0}):
    draws = mochi.draw(jax.random.key(0), (4,), num_hard=2, **sizes)
    shapes = [h.shape[1] for h in mixed(query, queue, draws)]
    assert shapes == list(sizes.values())


@pytest.mark.slow
def test_impossible_numbers_are_refused():
  query, _, queue, _ = problem()
  with pytest.raises(UserError, match='num_hard <= 12'):
    mochi.hardest(query, queue, 13)
  with pytest.raises(UserError, match='num_hard >= 2'):
    mochi.draw(jax.random.key(0), (4,), num_hard=1, num_mixed=1, num_query_mixed=0)


@pytest.mark.slow
def test_float64(x64):
  query, _, queue, draws = problem()
  assert query.dtype == 'float64' and draws.alpha.dtype == 'float64'
  assert draws.second.dtype == draws.single.dtype == 'int32'
  for h in mixed(query, queue, draws):
    np.testing.assert_allclose(jnp.linalg.norm(h, axis=-1), 1, atol=1e-14)
