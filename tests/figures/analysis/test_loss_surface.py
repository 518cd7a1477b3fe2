"""The plane around a checkpoint: directions as long as the filters, and the losses on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.figures.analysis import loss_surface
from clr_jax.rundir.reader import Run
from tests.figures.run_files import write_run


def test_filters_of_a_direction_are_as_long_as_the_weights(x64):
  rng = np.random.default_rng(0)
  params = {
    'backbone': {
      'conv': {'kernel': jnp.asarray(rng.normal(size=(3, 3, 2, 4)) * 7), 'bias': jnp.ones(4)},
      'norm': {'scale': jnp.ones(4), 'bias': jnp.ones(4)},
    },
    'projector': {'dense': {'kernel': jnp.asarray(rng.normal(size=(4, 5))).at[:, 1].set(0.0)}},
  }
  direction = loss_surface.filter_normalized(jax.random.key(3), params)
  assert jax.tree.structure(direction) == jax.tree.structure(params)
  conv, dense = direction['backbone']['conv'], direction['projector']['dense']['kernel']
  for d, w in (
    (conv['kernel'], params['backbone']['conv']['kernel']),
    (dense, params['projector']['dense']['kernel']),
  ):
    for i in range(w.shape[-1]):
      np.testing.assert_allclose(np.linalg.norm(d[..., i]), np.linalg.norm(w[..., i]), rtol=1e-12)
    cosine = np.vdot(d, w) / (np.linalg.norm(d) * np.linalg.norm(w))
    assert abs(cosine) < 0.9  # random, not along the weights
  assert not any(np.any(x) for x in (conv['bias'], *direction['backbone']['norm'].values()))
  assert not np.any(dense[:, 1])


def test_networks_of_one_shape_go_the_same_way():
  one = {'w': jnp.ones([3, 2])}
  other = {'w': jnp.array([2.0, 5.0])[None] * one['w'], 'v': jnp.ones([2, 2])}
  a = loss_surface.filter_normalized(jax.random.key(0), one)['w']
  b = loss_surface.filter_normalized(jax.random.key(0), other)['w']
  np.testing.assert_allclose(b, a * jnp.array([2.0, 5.0])[None], rtol=1e-6)


def test_surface_of_a_quadratic():
  params = {'w': jnp.array([[1.0, 2.0], [3.0, 4.0]])}
  d1, d2 = (
    np.asarray(loss_surface.filter_normalized(key, params)['w'], np.float64)
    for key in jax.random.split(jax.random.key(5))
  )
  offsets = [-1.0, 0.0, 0.5]
  found = loss_surface.surface(lambda p: jnp.sum(p['w'] ** 2), params, offsets, seed=5)
  w = np.asarray(params['w'], np.float64)
  expected = [[((w + a * d1 + b * d2) ** 2).sum() for a in offsets] for b in offsets]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_a_missing_step_and_a_large_batch_are_refused(tmp_path):
  run = Run(write_run(tmp_path / 'a', method='simclr', checkpoint=True))
  with pytest.raises(UserError, match=r'no checkpoint 7'):
    loss_surface.open_objective(run, step=7)
  with pytest.raises(UserError, match=r'batch_size=5000'):
    loss_surface.open_objective(run, batch_size=5000)
