import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.evaluate.subsets import stratified_subset
from clr_jax.types import UserError


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(0, 1), st.integers(0, 5))
def test_proportions(counts, share, seed):
  label = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 3, counts))
  size = len(counts) + round(share * (len(label) - len(counts)))
  rows = stratified_subset(label, size, seed=seed)
  assert len(np.unique(rows)) == len(rows) == size
  taken = np.array([(label[rows] == 3 * c).sum() for c in range(len(counts))])
  assert (taken >= 1).all() and (taken <= counts).all()
  quota = size * np.array(counts) / len(label)
  if (quota >= 1).all():
    assert (np.abs(taken - quota) < 1).all()


def test_largest_remainder():
  label = np.repeat([0, 1, 2], [50, 30, 20])
  rows = stratified_subset(label, 13, seed=0)  # quotas 6.5, 3.9, 2.6
  assert np.bincount(label[rows]).tolist() == [6, 4, 3]
  rows = stratified_subset(np.repeat([0, 1, 2], [98, 1, 1]), 5, seed=0)  # quotas 4.9, .05, .05
  assert len(rows) == 5 and {98, 99} <= set(rows)


def test_a_seed_is_a_subset():
  label = np.arange(100) % 5
  first = stratified_subset(label, 20, seed=1)
  np.testing.assert_array_equal(first, stratified_subset(label, 20, seed=1))
  assert (first != stratified_subset(label, 20, seed=2)).any()
  np.testing.assert_array_equal(stratified_subset(label, 100, seed=3), np.arange(100))


def test_fewer_labels_than_classes():
  with pytest.raises(UserError, match=r'4 labels are too few for 5 classes; .* at least 0.05'):
    stratified_subset(np.arange(100) % 5, 4, seed=0)
