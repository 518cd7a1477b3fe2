import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import models
from clr_jax.core.errors import UserError
from clr_jax.models.resnet import architecture

STATISTICS = {'mean': (0.4, 0.5, 0.6), 'std': (0.2, 0.25, 0.3)}


def to_torch_name(path):
  """('layer1_0', 'downsample_conv', 'kernel') -> 'layer1.0.downsample.0.weight'."""
  names = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}
  *modules, leaf = [p.key for p in path if p.key not in ('params', 'batch_stats')]
  text = '.'.join([*modules, names.get(leaf, leaf)]).replace('_0.', '.0.').replace('_1.', '.1.')
  return text.replace('downsample_conv', 'downsample.0').replace('downsample_bn', 'downsample.1')


def to_torch_layout(value):
  value = np.asarray(value)
  return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value


def flatten(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {to_torch_name(path): to_torch_layout(value) for path, value in leaves}


@pytest.mark.parametrize(
  ('bottleneck', 'stem', 'downsample', 'size'),
  [
    (False, 'cifar', 'conv', 6),
    pytest.param(True, 'imagenet', 'conv', 17, marks=pytest.mark.slow),
    pytest.param(True, 'cifar_pad2', 'avgpool', 5, marks=pytest.mark.slow),
  ],
)
def test_equals_torch(x64, bottleneck, stem, downsample, size):
  torch = pytest.importorskip('torch')
  from clr_jax.bench.torch_reference import network

  rng = np.random.default_rng(0)
  blocks = (2, 1)
  make = architecture(blocks, bottleneck=bottleneck)
  model = make(width=4, stem=stem, downsample=downsample, **STATISTICS)
  images = rng.uniform(size=(4, size, size, 3))
  shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
  variables = jax.tree.map(lambda v: rng.normal(0, 0.5, v.shape), shapes)
  stats = variables['batch_stats'] = jax.tree.map(np.square, variables['batch_stats'])
  reference = network.ResNet(model).double()
  state = {k: torch.tensor(v) for k, v in flatten(variables).items()}
  missing, unexpected = reference.load_state_dict(state, strict=False)
  assert not unexpected
  assert all('num_batches_tracked' in name for name in missing)

  x = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
  maps = reference.stages(x)
  h = maps[-1].mean((2, 3))
  cotangent = rng.normal(size=h.shape)
  (torch.tensor(cotangent) * h).sum().backward()
  trained = {k: v for k, v in reference.state_dict().items() if 'running' in k}
  reference.eval()
  expected_eval = reference(x).detach()

  @jax.jit
  def run(params, images):
    def forward(params, images):
      (h, maps), new = model.apply(
        {'params': params, 'batch_stats': stats},
        images,
        train=True,
        stages=True,
        mutable=['batch_stats'],
      )
      return h, (maps, new['batch_stats'])

    h, vjp, (maps, new) = jax.vjp(forward, params, images, has_aux=True)
    evaluated = model.apply({'params': params, 'batch_stats': new}, images, train=False)
    return h, maps, new, evaluated, *vjp(jnp.asarray(cotangent))

  actual, actual_maps, new, evaluated, grads, grad_images = run(variables['params'], images)

  def close(a, b, what):
    a, b = np.asarray(a), b.detach().numpy()
    assert a.dtype == np.float64, what
    np.testing.assert_allclose(a, b, atol=1e-10 * np.abs(b).max(), rtol=0, err_msg=what)

  close(actual, h, 'h')
  assert len(actual_maps) == len(maps)
  for name, b in zip(('stem', 'stage1', 'stage2'), maps, strict=True):
    close(np.asarray(actual_maps[name]).transpose(0, 3, 1, 2), b, name)
  close(evaluated, expected_eval, 'inference')
  close(np.asarray(grad_images).transpose(0, 3, 1, 2), x.grad, 'gradient of images')
  expected_grads = {k: p.grad for k, p in reference.named_parameters()}
  actual_grads = flatten(grads)
  assert actual_grads.keys() == expected_grads.keys()
  for name, value in actual_grads.items():
    close(value, expected_grads[name], f'gradient of {name}')
  for name, value in flatten(new).items():
    close(value, trained[name], name)


@pytest.mark.parametrize('wide', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bfloat16_compute_keeps_float32_parameters(wide):
  with jax.enable_x64(wide):
    model = models.make('resnet_tiny', width=4, dtype='bfloat16', mean=(0.5,), std=(0.5,))
    images = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1), 'float32')

    @jax.jit
    def run():
      variables = model.init(jax.random.key(0), images, train=False)

      def loss(params):
        (h, maps), new = model.apply(
          {**variables, 'params': params},
          images,
          train=True,
          groups=2,
          stages=True,
          mutable=['batch_stats'],
        )
        return jnp.square(h).sum(), (h, maps, new)

      return variables, *jax.value_and_grad(loss, has_aux=True)(variables['params'])

    variables, (_, (h, maps, new)), grads = run()
    assert h.dtype == 'float32'
    assert {m.dtype.name for m in maps.values()} == {'bfloat16'}
    assert {v.dtype.name for v in jax.tree.leaves((variables, new, grads))} == {'float32'}
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((h, new, grads)))
    assert h.shape == (4, model.num_features)
    assert {k: m.shape[1:] for k, m in maps.items()} == {
      'stem': (8, 8, 4),
      'stage1': (8, 8, 4),
      'stage2': (4, 4, 8),
      'stage3': (2, 2, 16),
    }


def test_float32_stays_float32_under_x64(x64):
  model = models.make('resnet_tiny', width=4)
  images = jax.ShapeDtypeStruct((2, 8, 8, 3), 'float32')
  h, variables = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, train=True), images
  )
  assert {v.dtype.name for v in jax.tree.leaves((h, variables))} == {'float32'}


@pytest.mark.parametrize(('stem', 'size'), [('imagenet', 8), ('cifar', 32), ('cifar_pad2', 34)])
def test_stem_sizes(stem, size):
  model = models.make('resnet_tiny', width=4, stem=stem)
  _, maps = jax.eval_shape(
    lambda: model.init_with_output(
      jax.random.key(0), jnp.zeros((2, 32, 32, 3)), train=False, stages=True
    )[0]
  )
  assert maps['stem'].shape == (2, size, size, 4)


@pytest.mark.slow
def test_initial_values():
  make = architecture((1, 1), bottleneck=True, width=32, stem='cifar')
  model = make(zero_init_residual=True, stem_init='torch_default')
  images = jnp.zeros((2, 4, 4, 3))
  params = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()['params']
  bound = 1 / np.sqrt(27)
  assert 0.98 * bound < np.abs(params['conv1']['kernel']).max() <= bound
  block = params['layer1_0']
  np.testing.assert_allclose(np.std(block['conv2']['kernel']), np.sqrt(2 / (9 * 32)), rtol=0.03)
  assert not np.any(block['bn3']['scale'])
  assert all(np.all(block[bn]['scale'] == 1) for bn in ('bn1', 'bn2', 'downsample_bn'))
  params = jax.jit(lambda: make().init(jax.random.key(0), images, train=False))()['params']
  np.testing.assert_allclose(np.std(params['conv1']['kernel']), np.sqrt(2 / (9 * 32)), rtol=0.1)
  assert np.all(params['layer1_0']['bn3']['scale'] == 1)


def test_bad_images():
  model = models.make('resnet_tiny', width=4, mean=(0.4, 0.5, 0.6))
  with pytest.raises(UserError, match='divide by 255'):
    model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3), 'uint8'), train=False)
  with pytest.raises(UserError, match='mean has 3 values but the images have 1'):
    model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
