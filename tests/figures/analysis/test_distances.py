"""The two conventions of robustness curves."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from clr_jax.core.errors import UserError
from clr_jax.figures.analysis.distances import paper_curve, robust_error, summary

DISTANCE = strategies.one_of(
  strategies.sampled_from([0.0, np.inf, np.nan, 0.5]), strategies.floats(1e-6, 10)
)
DISTANCES = strategies.lists(DISTANCE, min_size=1, max_size=30)
few = hypothesis.settings(max_examples=60, deadline=None)


@few
@hypothesis.given(DISTANCES, strategies.lists(strategies.floats(0, 20), min_size=1, max_size=10))
def test_robust_error_counts_all_images_and_never_failures(distances, eps):
  eps = np.sort(eps)
  error = robust_error(distances, eps)
  by_hand = [np.mean([np.isfinite(d) and d <= e for d in distances]) for e in eps]
  np.testing.assert_allclose(error, by_hand)
  assert (np.diff(error) >= 0).all()
  assert robust_error(distances, 0) == np.mean(np.array(distances) == 0)
  assert robust_error(distances, np.inf) == np.isfinite(distances).mean()
  failed = robust_error([*distances, np.inf, np.nan], eps) * (len(distances) + 2)
  np.testing.assert_allclose(failed, error * len(distances))


@few
@hypothesis.given(DISTANCES, strategies.floats(0.1, 20))
def test_paper_curve_ignores_failures_and_clean_errors(distances, x_max):
  x, y, kept = paper_curve(distances, x_max, points=41)
  again = paper_curve([*distances, 0.0, np.inf, np.nan], x_max, points=41)
  for a, b in zip((x, y, kept), again, strict=True):
    np.testing.assert_array_equal(a, b)
  inside = [d for d in distances if np.isfinite(d) and d > 0]
  np.testing.assert_array_equal(kept, sorted(inside))
  np.testing.assert_allclose(x, np.linspace(0, x_max, 41))
  if inside:
    np.testing.assert_allclose(y, [np.mean([d < at for d in inside]) for at in x])
  else:
    assert np.isnan(y).all()


def test_paper_curve_is_strict_and_ends_at_the_largest_distance():
  x, y, kept = paper_curve([0.0, 1.0, 2.0, 4.0, np.inf], points=5)
  np.testing.assert_array_equal(x, [0, 1, 2, 3, 4])
  np.testing.assert_allclose(y, [0, 0, 1 / 3, 2 / 3, 2 / 3])
  np.testing.assert_array_equal(kept, [1, 2, 4])
  assert len(paper_curve([1.0])[0]) == 1000


def test_robust_error_compares_in_the_precision_of_the_distances():
  distances = np.array([0.1, 0.3], np.float32)  # float32(0.1) is above 0.1
  np.testing.assert_array_equal(robust_error(distances, [[0.1], [0.3]]), [[0.5], [1.0]])


@few
@hypothesis.given(DISTANCES)
def test_summary_counts_every_image_once(distances):
  s = summary(distances)
  assert s.total == len(distances) == s.clean_errors + s.never_fooled + s.fooled
  kept = paper_curve(distances)[2]
  assert s.fooled == len(kept) and s.clean_errors == distances.count(0)
  if s.fooled:
    np.testing.assert_allclose([s.median, s.mean, s.max], [np.median(kept), kept.mean(), kept[-1]])
  else:
    assert np.isnan([s.median, s.mean, s.max]).all()


@pytest.mark.parametrize('function', [summary, paper_curve, lambda d: robust_error(d, 0.1)])
def test_bad_distances_are_refused(function):
  for wrong, sentence in (
    ([], 'list of distances'),
    ([[1.0]], 'list of'),
    ([1.0, -1.0], 'negative'),
  ):
    with pytest.raises(UserError, match=sentence):
      function(wrong)
