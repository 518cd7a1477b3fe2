import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import models
from clr_jax.core.errors import UserError
from clr_jax.models import heads, norm
from clr_jax.models.siamese import Chain

# L = Linear, Lb = Linear with bias, B = BatchNorm, Bs = without offset, Bn = without both.
LAYERS = {
  'linear': 'Lb',
  'supcon': 'Lb Lb',
  'solo_simclr': 'Lb Lb',
  'mocov2': 'Lb Lb',
  'simclr': 'L B L B L Bs',
  'sogclr': 'L B L Bn',
  'debiased': 'L B Lb',
  'byol': 'Lb B Lb',
  'byol_deepmind': 'Lb B L',
  'simsiam_projector': 'L B L B L Bn',
  'simsiam_predictor': 'L B Lb',
  'mocov3_projector': 'L B L Bn',
  'mocov3_predictor': 'L B L',
  'mocov3_vit_projector': 'L B L B L Bn',
  'mocov3_vit_predictor': 'L B L Bn',
  'dino': 'Lb Lb Lb',
  'dino_bn': 'Lb B Lb B Lb',
  'vicreg': 'Lb B Lb B L',
  'solo_vicreg': 'Lb B Lb B Lb',
  'barlow': 'L B L B L',
  'nnclr_projector': 'Lb B Lb B Lb B',
}


def layers(variables, depth):
  params, found = variables['params'], []
  for i in range(depth):
    found.append('Lb' if 'bias' in params[f'linear{i}'] else 'L')
    if f'norm{i}' in variables.get('batch_stats', {}):
      affine = params.get(f'norm{i}', {})
      found.append('B' if 'bias' in affine else 'Bs' if 'scale' in affine else 'Bn')
  return ' '.join(found)


@pytest.mark.parametrize('name', heads.RECIPES)
def test_recipe_is_what_the_paper_has(name):
  head = heads.make(name, hidden_dim=6, out_dim=4)
  shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), jnp.ones((3, 5)), train=False))
  depth = LAYERS[name].count('L')
  assert layers(shapes, depth) == LAYERS[name]
  assert sum(k.startswith('linear') for k in shapes['params']) == depth
  widths = [shapes['params'][f'linear{i}']['kernel'].shape for i in range(depth)]
  assert widths == list(zip([5, *[6] * (depth - 1)], [*[6] * (depth - 1), 4], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
  ('dtype', 'wide'),
  [
    (None, False),
    ('bfloat16', True),
    pytest.param('bfloat16', False, marks=pytest.mark.slow),
    pytest.param(None, True, marks=pytest.mark.slow),
  ],
)
def test_dtypes(dtype, wide):
  with jax.enable_x64(wide):
    head = heads.make('dino_bn', hidden_dim=4, out_dim=3, dtype=dtype)
    prototypes = heads.Prototypes(num=5, weight_norm=True)
    x = jax.random.normal(jax.random.key(1), (6, 4), 'float32')
    variables = jax.jit(functools.partial(head.init, train=False))(jax.random.key(0), x)
    weight = jax.jit(prototypes.init)(jax.random.key(0), jnp.ones((6, 3), 'float32'))
    assert {v.dtype.name for v in jax.tree.leaves((variables, weight))} == {'float32'}

    def run(variables, x):
      return head.apply(variables, x, train=True, groups=2, mutable=['batch_stats'])

    y, new = jax.jit(run)(variables, x)
    assert y.dtype == (dtype or 'float32')
    scores = prototypes.apply(weight, y, train=True, groups=2)
    assert scores.dtype == 'float32'
    assert all(np.isfinite(np.asarray(v, 'float32')).all() for v in jax.tree.leaves((scores, new)))
    if wide:
      double = jax.tree.map(lambda v: v.astype('float64'), variables)
      y, new = run(double, x) if dtype else jax.jit(run)(double, x.astype('float64'))
      assert y.dtype == (dtype or 'float64')
      assert {v.dtype.name for v in jax.tree.leaves(new)} == {'float64'}


def test_groups_equal_separate_passes(x64):
  head = heads.make('simclr', hidden_dim=4, out_dim=3)
  views = jax.random.normal(jax.random.key(1), (5, 2, 4), 'float64')
  variables = jax.jit(functools.partial(head.init, train=False))(jax.random.key(0), views[:, 0])
  apply = jax.jit(
    functools.partial(head.apply, train=True, mutable=['batch_stats']), static_argnames='groups'
  )
  y, new = apply(variables, views.reshape(10, 4), groups=2)
  for v in range(2):
    one, stats = apply(variables, views[:, v])
    variables = {**variables, **stats}
    np.testing.assert_allclose(y.reshape(5, 2, 3)[:, v], one, atol=1e-12)
  for a, b in zip(jax.tree.leaves(new['batch_stats']), jax.tree.leaves(stats), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)  # running statistics are float32


def test_initial_values():
  x = jnp.ones((2, 400))
  torch_like = heads.make('linear', out_dim=300).init(jax.random.key(0), x, train=False)['params']
  for leaf in torch_like['linear0'].values():  # uniform on +-1/sqrt(400)
    assert 0.049 < np.abs(leaf).max() <= 0.05
    np.testing.assert_allclose(np.std(leaf), 0.05 / np.sqrt(3), rtol=0.1)
  dino = heads.make('dino', hidden_dim=300, out_dim=3).init(jax.random.key(0), x, train=False)
  np.testing.assert_allclose(np.std(dino['params']['linear0']['kernel']), 0.02, rtol=0.02)
  assert not np.any(dino['params']['linear0']['bias'])
  weight = heads.Prototypes(num=300).init(jax.random.key(0), x)['params']['weight']
  assert weight.shape == (300, 400)
  assert 0.049 < np.abs(weight).max() <= 0.05


def test_prototype_scores():
  x = jax.random.normal(jax.random.key(0), (6, 4))
  cosine, plain = heads.Prototypes(num=5, weight_norm=True), heads.Prototypes(num=5)
  variables = cosine.init(jax.random.key(1), x)
  weight = np.asarray(variables['params']['weight'])
  z = np.asarray(x) / np.linalg.norm(x, axis=1)[:, None]
  np.testing.assert_allclose(plain.apply(variables, 3 * x), z @ weight.T, atol=1e-6)
  rows = weight / np.linalg.norm(weight, axis=1)[:, None]
  np.testing.assert_allclose(cosine.apply(variables, 3 * x), z @ rows.T, atol=1e-6)


def test_bad_names():
  with pytest.raises(UserError, match='solo_simclr'):
    heads.make('sim', out_dim=3)
  with pytest.raises(UserError, match='set hidden_dim'):
    heads.make('simclr', out_dim=3)


def test_a_head_normalizes_as_its_backbone_does(monkeypatch):
  """In one pass on accelerators, decided by the backbone alone."""
  asked, one_pass = {}, norm.normalize_batch

  def spy(x, *args):
    asked[x.shape[-1]] = args[-1]
    return one_pass(x, *args)

  monkeypatch.setattr(norm, 'normalize_batch', spy)
  backbone = models.make('resnet_tiny', width=8, norm_terms=4)
  chain = Chain({'backbone': backbone, 'projector': heads.make('sogclr', hidden_dim=6, out_dim=5)})

  def step(key, images):
    return chain.apply(*chain.init(key, images), images, train=True)

  jax.eval_shape(step, jax.random.key(0), jnp.ones((8, 8, 8, 3)))
  assert asked == dict.fromkeys((8, 16, 32, 6, 5), 4)  # the last two are the head's
