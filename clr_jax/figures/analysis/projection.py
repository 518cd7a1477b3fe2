"""Projections of features to the plane: principal components or t-SNE."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name

PROJECTIONS = ('pca', 'tsne')
_TSNE_INPUT = 50  # principal components, to reduce noise and time (van der Maaten and Hinton 2008
# use 30, scikit-learn's manual 50)
_PERPLEXITY = 30.0  # scikit-learn's default


class Projection(NamedTuple):
  """Projected features.

  Attributes:
    points: [N, 2], in the order of the features.
    explained: (2,) share of the variance along each axis, in [0, 1]; None for t-SNE, whose axes
      are meaningless.
  """

  points: np.ndarray
  explained: np.ndarray | None


def project(h: np.ndarray, *, projection: str = 'pca', seed: int = 0) -> Projection:
  """Maps features [N, F] to the plane.

  'pca': the first two principal components of the centered features, not whitened; the largest
  loading of a component is positive, so that its sign does not depend on the machine. 'tsne': van
  der Maaten and Hinton (2008) on the first 50 components, initialized by the first two, with
  perplexity 30 or a third of N.

  Args:
    h: [N, F], not normalized: divide by the norms first to use cosines.
    projection: 'pca' or 'tsne'.
    seed: RNG seed of t-SNE.

  Raises:
    UserError: an unknown projection, fewer than 4 rows, or features that are not finite.
  """
  check_name(PROJECTIONS, projection, 'projection')
  h = np.asarray(h, np.float64)
  if h.ndim != 2 or len(h) < 4:
    raise UserError(f'a projection needs features [N, F] of 4 images or more, not {h.shape}')
  if not np.isfinite(h).all():
    raise UserError('the features are not finite: the run has diverged, choose an earlier --step')
  components, explained = principal_components(h, _TSNE_INPUT if projection == 'tsne' else 2)
  if projection == 'pca':
    return Projection(components, explained)
  return Projection(_tsne(components, seed), None)


def principal_components(h: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """(scores [N, count], share of the variance [count]); zeros beyond the possible rank."""
  centered = h - h.mean(0)
  u, s, v = np.linalg.svd(centered, full_matrices=False)
  largest = np.abs(v).argmax(1)
  u = u * np.where(v[np.arange(len(v)), largest] < 0, -1.0, 1.0)
  total = np.sum(s**2)
  share = s**2 / total if total else np.zeros_like(s)
  missing = max(0, count - len(s))
  scores = np.pad((u * s)[:, :count], ((0, 0), (0, missing)))
  return scores, np.pad(share[:count], (0, missing))


def _tsne(components: np.ndarray, seed: int) -> np.ndarray:
  from sklearn.manifold import TSNE  # 1 s to import, and only needed here

  if not components.any():  # equal features: the initialization would be divided by 0
    return np.zeros((len(components), 2))
  perplexity = min(_PERPLEXITY, (len(components) - 1) / 3)
  tsne = TSNE(perplexity=perplexity, init='pca', random_state=seed)
  return tsne.fit_transform(components.astype(np.float32)).astype(np.float64)
