"""Mean and confidence interval of repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class Interval(NamedTuple):
  """A mean and half of its 95 % interval.

  Attributes:
    mean: mean of the values.
    half: half the width of the interval; NaN for one value.
    n: number of values.
  """

  mean: float
  half: float
  n: int


def interval(values: Sequence[float]) -> Interval:
  """Mean and 95 % interval (Student's t, n - 1 degrees of freedom) of independent repetitions.

  Infinite values give an infinite mean or NaN, and no interval.
  """
  n = len(values)
  with np.errstate(invalid='ignore'):
    mean, half = float(np.mean(values)), float('nan')
    if n > 1:
      half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(n))
  return Interval(mean, half, n)
