"""Common corruptions of images, for measuring how accuracy falls with them.

The families of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261) at five
severities, from the formulas and constants of the paper's code. `frost` is not here: it lays six
photographs over the image, which come with that code. Of the others, the paper's mean is over all
but speckle_noise, gaussian_blur, spatter and saturate, which it kept for validation.
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
