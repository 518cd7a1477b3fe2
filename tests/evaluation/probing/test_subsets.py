import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.core.errors import UserError
from clr_jax.evaluation.probing.subsets import labeled_subset, stratified_subset


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


LABEL = np.random.default_rng(0).permutation(np.repeat([3, 5, 8], [60, 30, 10]))


def test_so_many_of_each_class():
  rows = labeled_subset(LABEL, per_class=4)
  assert (np.diff(rows) > 0).all()
  assert np.unique(LABEL[rows], return_counts=True)[1].tolist() == [4, 4, 4]
  assert labeled_subset(LABEL, per_class=10).size == 30


def test_a_share_is_stratified_or_simply_random():
  rows = labeled_subset(LABEL, label_fraction=0.1)
  assert np.unique(LABEL[rows], return_counts=True)[1].tolist() == [6, 3, 1]
  draws = [labeled_subset(LABEL, label_fraction=0.1, balanced=False, draw=d) for d in range(300)]
  assert {len(np.unique(rows)) for rows in draws} == {10}
  counts = np.array([[(LABEL[rows] == c).sum() for c in (3, 5, 8)] for rows in draws])
  np.testing.assert_allclose(counts.mean(0), [6, 3, 1], atol=0.3)
  # Hypergeometric, not stratified: a class may be missing.
  np.testing.assert_allclose(counts[:, 0].var(), 10 * 0.6 * 0.4 * 90 / 99, rtol=0.25)
  assert (counts[:, 2] == 0).any()
  assert len(labeled_subset(LABEL, per_class=4, balanced=False)) == 12


def test_the_subset_belongs_to_seed_and_draw():
  take = lambda **kw: labeled_subset(LABEL, label_fraction=0.2, **kw).tolist()  # noqa: E731
  assert take(draw=1) == take(draw=1) != take() != take(seed=1)
  np.testing.assert_array_equal(labeled_subset(LABEL), np.arange(100))
  renamed = np.searchsorted([3, 5, 8], LABEL)  # class indices instead of labels
  assert labeled_subset(renamed, label_fraction=0.2).tolist() == take()
  for balanced in (True, False):
    first, second = (
      labeled_subset(x, per_class=3, balanced=balanced).tolist() for x in (LABEL, renamed)
    )
    assert first == second


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'label_fraction': 0.02}, '2 labels are too few for 3 classes'),
    ({'label_fraction': 0.02, 'balanced': False}, '2 labels are not between'),
    ({'label_fraction': 1.5}, 'label_fraction=1.5 is not allowed'),
    ({'label_fraction': 0.0, 'balanced': False}, 'label_fraction=0.0 is not allowed'),
    ({'per_class': 11}, 'at most 10, the number of labeled examples of class 8'),
    ({'per_class': 0}, 'per_class=0 is not allowed'),
    ({'draw': -1}, 'draw=-1 is not allowed'),
    ({'per_class': 34, 'balanced': False}, '102 labels are not between'),
    ({'label_fraction': 0.5, 'per_class': 1}, 'not both'),
  ],
)
def test_amounts_that_the_labels_do_not_have(options, message):
  with pytest.raises(UserError, match=message):
    labeled_subset(LABEL, **options)
