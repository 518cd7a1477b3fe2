"""Features in the plane: against scikit-learn's PCA, and what t-SNE keeps."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from clr_jax.core.errors import UserError
from clr_jax.figures.analysis.projection import project


def features(n=60, f=20, seed=0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(n, f)) * np.linspace(3, 0.1, f) + 5).astype(np.float32)


@pytest.mark.parametrize('shape', [(60, 20), (10, 30), (9, 2)])
def test_pca_is_that_of_scikit_learn_up_to_sign(shape):
  h = features(*shape)
  points, explained = project(h)
  pca = PCA(2, svd_solver='full')
  expected = pca.fit_transform(h.astype(np.float64))
  signs = np.sign((points * expected).sum(0))
  np.testing.assert_allclose(points, expected * signs, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(explained, pca.explained_variance_ratio_, rtol=1e-6)
  np.testing.assert_array_equal(project(h).points, points)


def test_pca_of_collapsed_and_of_one_dimensional_features_is_finite():
  points, explained = project(np.ones((8, 3)))
  assert not points.any() and not explained.any()
  points, explained = project(features(8, 1))
  np.testing.assert_allclose(explained, [1, 0])
  assert points.shape == (8, 2) and not points[:, 1].any()


@pytest.mark.slow
def test_tsne_keeps_clusters_apart_and_repeats():
  rng = np.random.default_rng(0)
  label = np.arange(24) % 2
  h = rng.normal(size=(24, 60)) + 40.0 * label[:, None]
  points, explained = project(h, projection='tsne', seed=3)
  assert explained is None and points.shape == (24, 2)
  np.testing.assert_array_equal(project(h, projection='tsne', seed=3).points, points)
  distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
  np.fill_diagonal(distance, np.inf)
  np.testing.assert_array_equal(label[distance.argmin(1)], label)
  assert not project(np.ones((8, 3)), projection='tsne').points.any()


def test_what_cannot_be_projected_is_refused():
  with pytest.raises(UserError, match="projection 'umap'"):
    project(features(), projection='umap')
  with pytest.raises(UserError, match='4 images or more'):
    project(features(3))
  with pytest.raises(UserError, match='not finite'):
    project(np.full((5, 2), np.nan))
