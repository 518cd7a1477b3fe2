"""The interval of a mean, against scipy.stats."""

import math

import numpy as np
import pytest
from scipy import stats

from clr_jax.core.intervals import interval


@pytest.mark.parametrize('n', [2, 3, 10])
def test_interval_is_students(n):
  values = np.random.default_rng(n).normal(3.0, 2.0, n).tolist()
  mean, half, count = interval(values)
  low, high = stats.t.interval(0.95, n - 1, loc=np.mean(values), scale=stats.sem(values))
  np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-12)
  assert count == n


def test_one_value_has_no_interval_and_infinite_ones_none_either():
  assert interval([0.5])[::2] == (0.5, 1) and math.isnan(interval([0.5]).half)
  diverged = interval([1.0, math.inf])
  assert diverged.mean == math.inf and math.isnan(diverged.half)
