"""Common corruptions of images, to measure their effect on accuracy.

The families of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261) at five
severities, from the formulas and constants of the paper's code. `frost` is missing: it needs six
photographs from that code. The paper's mean excludes speckle_noise, gaussian_blur, spatter and
saturate, which it used for validation.
"""

from clr_jax.evaluation.corruptions._apply import (
  LEAST_SIDE,
  NAMES,
  SEVERITIES,
  VALIDATION,
  corrupt,
  names_for,
)

__all__ = ['LEAST_SIDE', 'NAMES', 'SEVERITIES', 'VALIDATION', 'corrupt', 'names_for']
