"""ViTs against timm's and DINO's code, by arrays that tests/expected/make.py made."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import models
from clr_jax.core.errors import UserError
from clr_jax.models.positions import interpolate, sine_cosine
from clr_jax.models.tokens import check_tokens
from clr_jax.models.torch_names import Backbone, from_torch, to_torch
from tests import expected

SMALL = {'width': 8, 'depth': 2, 'heads': 2, 'patch': 4}


def abstract(net, size, channels=3):
  images = jnp.zeros([1, size, size, channels])
  return jax.eval_shape(lambda: net.init(jax.random.key(0), images, train=False))


def with_weights(net, size):
  """Variables with the weights that timm's module has."""
  like = Backbone(abstract(net, size)['params'], {})
  shapes = to_torch(jax.tree.map(lambda x: np.zeros(x.shape), like))
  tensors = {name: expected.weights(name, x.shape) for name, x in shapes.items()}
  backbone, read, missing = from_torch(tensors, jax.tree.map(lambda x: x.update(dtype=float), like))
  assert len(read) == len(tensors) and not missing
  return {'params': jax.tree.map(jnp.asarray, backbone.params)}


def outputs(net, size):
  """h, and the gradients of its squared sum by images and parameters, the latter in timm's form."""
  variables = with_weights(net, size)
  images = jnp.asarray(expected.images((2, size, size, 3)) / 255.0)

  @jax.jit
  def run(variables, images):
    h = net.apply(variables, images, train=False)
    return (h**2).sum(), h

  gradient = jax.value_and_grad(run, (0, 1), has_aux=True)
  (_, h), (of_variables, of_images) = gradient(variables, images)
  return h, of_images, to_torch(Backbone(of_variables['params'], {}))


def close(actual, wanted, tolerance):
  assert np.abs(actual - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, {'scan': True, 'remat': True}])
def test_equals_timm(x64, options):
  arrays = expected.load('vit')
  h, gradient, of_parameters = outputs(models.vit_tiny(**SMALL, **options), 8)
  close(h, arrays['small_h'], 1e-10)
  close(gradient, arrays['small_gradient'], 1e-10)
  wanted = {k.removeprefix('small/'): v for k, v in arrays.items() if k.startswith('small/')}
  assert of_parameters.keys() == wanted.keys()
  for name, value in wanted.items():
    close(of_parameters[name], value, 1e-9)


@pytest.mark.weekly
@pytest.mark.parametrize('name', ['vit_tiny', 'vit_small', 'vit_base'])
def test_equals_timm_at_published_sizes(name):
  """In float32."""
  arrays = expected.load('vit')
  h, gradient, of_parameters = outputs(models.make(name, scan=True), 224)
  close(h, arrays[f'{name}_h'], 1e-5)
  close(gradient[:, ::31, ::31], arrays[f'{name}_gradient'], 1e-5)
  known = json.loads((expected.FOLDER / 'timm_names.json').read_text())[name]
  both = arrays[f'{name}_norms'], arrays[f'{name}_products']
  for key, norm, product in zip(known, *both, strict=True):
    value = of_parameters[key].astype(np.float64)
    probe = expected.weights(key, value.shape)
    assert abs(np.linalg.norm(value) / norm - 1) < 1e-5
    assert abs((value * probe).sum() - product) < 1e-5 * norm * np.linalg.norm(probe)


@pytest.mark.parametrize(
  'name',
  ['vit_tiny', *(pytest.param(n, marks=pytest.mark.slow) for n in ('vit_small', 'vit_base'))],
)
def test_names_and_shapes_are_timms(name):
  """So that timm's networks load an export with strict=True."""
  like = abstract(models.make(name), 224)['params']
  empty = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), like)
  known = json.loads((expected.FOLDER / 'timm_names.json').read_text())
  assert {k: list(v.shape) for k, v in to_torch(Backbone(empty, {})).items()} == known[name]


@pytest.mark.parametrize(('rows', 'columns'), [(3, 3), (6, 9), (10, 10), (7, 7)])
def test_positions_of_other_grids_equal_dinos(x64, rows, columns):
  arrays = expected.load('vit')
  found = interpolate(jnp.asarray(arrays['positions']), rows, columns)
  same = (rows, columns) == (7, 7)
  wanted = arrays['positions' if same else f'positions_{rows}_{columns}']
  np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_sine_cosine_of_rows_and_columns():
  """As `build_2d_sincos_position_embedding` of facebookresearch/moco-v3, written out."""
  found = sine_cosine(2, 3, 8)
  assert found.shape == (6, 8)
  for row in range(2):
    for column in range(3):
      omega = np.array([1, 1 / 100])
      wanted = [f(place * omega) for place in (row, column) for f in (np.sin, np.cos)]
      np.testing.assert_allclose(found[3 * row + column], np.concatenate(wanted), atol=1e-12)


def test_sizes_other_than_at_initialization():
  net = models.vit_tiny(**SMALL)
  variables = abstract(net, 8)
  for height, width in ((8, 8), (4, 4), (12, 20)):
    shape = jax.eval_shape(
      lambda v, x: net.apply(v, x, train=False), variables, jnp.zeros([3, height, width, 3])
    )
    assert shape.shape == (3, 8)


def test_stages_tokens_and_attention():
  net = models.vit_tiny(**SMALL)
  images = jnp.zeros([3, 8, 12, 3])

  def run(variables):
    tokens = net.apply(variables, images, train=False, last_blocks=2)
    mutable = ['stages', 'attention']
    return tokens, net.apply(variables, images, train=True, mutable=mutable)[1]

  tokens, stored = jax.eval_shape(run, abstract(net, 8))
  assert [x.shape for x in tokens] == [(3, 7, 8)] * 2
  assert {k: x.shape for k, x in stored['stages'].items()} == {'stage1': (3, 8), 'stage2': (3, 8)}
  assert stored['attention']['blocks_1']['weights'].shape == (3, 2, 7, 7)


@pytest.mark.slow
def test_attention_as_gpus_and_tpus_compute_it(monkeypatch):
  """The same features and gradients, not of another head or image."""
  net = models.vit_tiny(**SMALL)
  images = jax.random.uniform(jax.random.key(1), [3, 8, 8, 3])
  variables = net.init(jax.random.key(0), images, train=False)
  variables = jax.tree.map(
    lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), variables
  )

  def run(variables):
    h = net.apply(variables, images, train=False)
    return (h**3).sum(), h

  found = [jax.jit(jax.grad(run, has_aux=True))(variables)]
  for platform in ('cuda', 'tpu'):
    with monkeypatch.context() as patch:
      choose = lambda *arrays, platform=platform, **forms: forms[platform](*arrays)  # noqa: E731
      patch.setattr(jax.lax, 'platform_dependent', choose)
      found.append(jax.jit(jax.grad(lambda v: run(v), has_aux=True))(variables))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
  for other in found[1:]:
    jax.tree.map(close, found[0], other)


@pytest.mark.slow
def test_stochastic_depth():
  """Acts only in training and with a key; each image draws for itself; the mean stays."""
  options = {**SMALL, 'depth': 1, 'positions': 'sine_cosine'}
  plain, net = models.vit_tiny(**options), models.vit_tiny(**options, drop_path=0.5)
  images = jnp.asarray(expected.images((1, 8, 8, 3)) / 255.0).repeat(16, 0).astype(jnp.float32)
  variables = with_weights(plain, 8)
  wanted = plain.apply(variables, images, train=True)
  for found in (
    net.apply(variables, images, train=False),
    net.apply(variables, images, train=True),
  ):
    np.testing.assert_array_equal(found, wanted)
  one = net.apply(variables, images, train=True, rngs={'drop_path': jax.random.key(0)})
  np.testing.assert_array_equal(one, wanted)  # the first block is never left out
  net = models.vit_tiny(**{**options, 'depth': 2}, drop_path=0.5)
  drawn = net.apply(with_weights(net, 8), images, train=True, rngs={'drop_path': jax.random.key(0)})
  assert len(np.unique(np.asarray(drawn).round(4), axis=0)) == 4  # of two branches each


@pytest.mark.parametrize(
  ('options', 'size', 'words'),
  [
    ({'heads': 3}, 8, 'model.heads=3 does not divide model.width=8'),
    ({'width': 6, 'heads': 2, 'positions': 'sine_cosine'}, 8, 'width=6 is not a multiple of 4'),
    ({'depth': 0}, 8, 'depth=0 is not allowed'),
    ({'patch': 3}, 8, 'patches of 3 pixels do not tile images of 8x8'),
  ],
)
def test_refused(options, size, words, nothing_compiles):
  with pytest.raises(UserError, match=words):
    abstract(models.make('vit_tiny', **{**SMALL, **options}), size)


def test_learned_positions_need_square_images():
  net = models.vit_tiny(**SMALL)
  with pytest.raises(UserError, match=r"2x3 patches: set model\.positions='sine_cosine'"):
    jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros([1, 8, 12, 3]), train=False))


def test_rates_by_layer():
  """As `LayerDecayValueAssigner` of BEiT numbers the layers."""
  found = models.vit_tiny(depth=3).layer_factors(0.5)
  assert found == {
    **dict.fromkeys(('patch_embed_proj', 'cls_token', 'pos_embed'), 0.5**4),
    'blocks_0': 0.5**3,
    'blocks_1': 0.5**2,
    'blocks_2': 0.5,
  }


@pytest.mark.parametrize(
  ('name', 'blocks', 'words'),
  [
    ('resnet_tiny', 1, 'resnet_tiny has no tokens: use a vision transformer'),
    ('vit_tiny', 13, 'last_blocks=13 is more than the 12 blocks of vit_tiny'),
  ],
)
def test_tokens_that_are_not_there(name, blocks, words):
  with pytest.raises(UserError, match=words):
    check_tokens(models.make(name), name, blocks)
