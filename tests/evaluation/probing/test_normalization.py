import numpy as np

from clr_jax.evaluation.probing import normalization


def test_unit_features_by_parts(monkeypatch):
  """Many rows are divided by their norms part after part, to the same bits."""
  h = np.random.default_rng(0).normal(size=(3, 50, 8)).astype(np.float32)
  at_once, _ = normalization.normalized(h, h[0], 'l2')
  sizes = []
  l2_normalize = normalization.l2_normalize
  monkeypatch.setattr(
    normalization, 'l2_normalize', lambda x: sizes.append(len(x)) or l2_normalize(x)
  )
  monkeypatch.setattr(normalization, 'SMALL', 0)
  monkeypatch.setattr(normalization, 'BLOCK', 16 * 8 * 4)
  by_parts, test = normalization.normalized(h, h[0], 'l2')
  assert sizes == [16] * (10 + 4)
  np.testing.assert_array_equal(by_parts, at_once)
  np.testing.assert_array_equal(test, at_once[0])
  np.testing.assert_allclose(np.linalg.norm(by_parts, axis=-1), 1, rtol=1e-6)
