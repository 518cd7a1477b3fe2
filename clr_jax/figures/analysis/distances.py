"""Curves of distances of adversarial examples, in two conventions.

A distance is 0 for an image that is misclassified without attack, and infinite (or NaN) if the
attack failed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from clr_jax.core.errors import UserError


class Summary(NamedTuple):
  """Counts and statistics of the distances of one attack.

  Attributes:
    total: number of images, the sum of the next three.
    clean_errors: images misclassified without attack.
    never_fooled: images for which the attack failed.
    fooled: images that were classified correctly and then fooled.
    median, mean, max: statistics of the distances of fooled images; NaN if there are none.
  """

  total: int
  clean_errors: int
  never_fooled: int
  fooled: int
  median: float
  mean: float
  max: float


def summary(distances: Any) -> Summary:
  """Computes counts and statistics of distances [N].

  Raises:
    UserError: no distances, or negative ones.
  """
  distances = _checked(distances)
  kept = _fooled(distances)
  statistics = [float(f(kept)) for f in (np.median, np.mean, np.max)] if len(kept) else [np.nan] * 3
  errors = int((distances == 0).sum())
  total = len(distances)
  return Summary(total, errors, total - errors - len(kept), len(kept), *statistics)


def paper_curve(
  distances: Any, x_max: float | None = None, points: int = 1000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Computes the robustness report's curve, without failures and clean errors.

  Args:
    distances: [N].
    x_max: end of the grid, to compare curves; None = the largest distance kept.
    points: number of points of the grid, which starts at 0.

  Returns:
    x [points]; y [points], the share of the kept distances below x (not equal; NaN if none is
    kept); the kept distances, ascending.

  Raises:
    UserError: no distances, or negative ones.
  """
  kept = np.sort(_fooled(_checked(distances)))
  if x_max is None:
    x_max = float(kept[-1]) if len(kept) else 0.0
  x = np.linspace(0, x_max, points)
  share = np.searchsorted(kept, x, 'left') / len(kept) if len(kept) else np.full(points, np.nan)
  return x, share, kept


def robust_error(distances: Any, eps: Any) -> np.ndarray:
  """Share of all images that are misclassified within `eps`; failed attacks never count.

  Args:
    distances: [N]; `eps` is compared in their precision.
    eps: budgets, any shape.

  Returns:
    Shares, with the shape of `eps`.

  Raises:
    UserError: no distances, or negative ones.
  """
  distances = _checked(distances)
  fooled = np.sort(distances[np.isfinite(distances)])
  budget = np.asarray(eps).astype(distances.dtype)
  return np.asarray(np.searchsorted(fooled, budget, 'right') / len(distances))


def _checked(distances: Any) -> np.ndarray:
  distances = np.asarray(distances)
  if not np.issubdtype(distances.dtype, np.floating):
    distances = distances.astype(np.float64)
  if distances.ndim != 1 or not len(distances):
    raise UserError(
      f'a robustness curve needs a list of distances, one per image, not shape {distances.shape}'
    )
  if (distances < 0).any():
    raise UserError(
      'distances must be 0 (misclassified), positive, or inf (not fooled), but some are negative'
    )
  return distances


def _fooled(distances: np.ndarray) -> np.ndarray:
  return distances[np.isfinite(distances) & (distances > 0)]
