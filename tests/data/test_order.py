import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.core.errors import UserError
from clr_jax.data.order import batch_indices, shuffled, steps_per_epoch

sizes = st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def epoch_of(seed, epoch, n, b):
  per_epoch = steps_per_epoch(num_examples=n, batch_size=b)
  steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
  return np.concatenate([batch_indices(seed, s, num_examples=n, batch_size=b) for s in steps])


@settings(max_examples=60, deadline=None)
@given(size=sizes, seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_an_epoch_visits_nothing_twice_and_drops_less_than_a_batch(size, seed, epoch):
  n, b = size
  seen = epoch_of(seed, epoch, n, b)
  assert seen.dtype == np.int32
  assert len(seen) == n // b * b
  assert len(set(seen.tolist())) == len(seen)
  assert set(seen.tolist()) <= set(range(n))


@settings(max_examples=30, deadline=None)
@given(size=sizes, seed=st.integers(0, 1000), step=st.integers(0, 200))
def test_a_batch_depends_on_seed_and_step_alone(size, seed, step):
  n, b = size
  first = batch_indices(seed, step, num_examples=n, batch_size=b).copy()
  for other in range(6):  # pushes the epoch out of the cache
    batch_indices(seed, step + 1000 * (other + 1), num_examples=n, batch_size=b)
  np.testing.assert_array_equal(first, batch_indices(seed, step, num_examples=n, batch_size=b))


def test_epochs_and_seeds_differ():
  orders = [epoch_of(seed, epoch, 50, 10).tolist() for seed in (0, 1) for epoch in (0, 1, 2)]
  assert len({tuple(o) for o in orders}) == 6


def test_the_order_is_fixed_forever():
  # A changed order would make resumed runs silently differ from uninterrupted ones.
  assert shuffled(7, 3, 8).tolist() == [7, 1, 6, 0, 4, 2, 3, 5]
  assert batch_indices(7, 5, num_examples=9, batch_size=4).tolist() == [8, 4, 2, 6]


def test_positions_are_uniform():
  first = np.array([shuffled(s, 0, 5)[0] for s in range(2000)])
  counts = np.bincount(first, minlength=5)
  assert (np.abs(counts - 400) < 5 * np.sqrt(400)).all()


@pytest.mark.parametrize(
  ('seed', 'batch', 'words'),
  [(0, 11, 'larger than the data set of 10'), (0, 0, 'at least 1'), (-1, 2, 'negative')],
)
def test_bad_input(seed, batch, words):
  with pytest.raises(UserError, match=words):
    batch_indices(seed, 0, num_examples=10, batch_size=batch)
