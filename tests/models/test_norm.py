import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.models.norm import BatchNorm


def random_variables(rng, channels, **affine):
  return {
    'params': {k: rng.normal(size=channels) for k in affine if affine[k]},
    'batch_stats': {'mean': rng.normal(size=channels), 'var': rng.uniform(0.5, 2, channels)},
  }


@pytest.mark.parametrize(
  ('shape', 'groups', 'affine'), [((8, 5), 1, True), ((4, 3, 2, 3), 2, True), ((9, 4), 3, False)]
)
def test_equals_torch_called_once_a_group(x64, shape, groups, affine):
  torch = pytest.importorskip('torch')
  rng = np.random.default_rng(0)
  channels = shape[-1]
  x, cotangent = rng.normal(1, 2, (2, *shape)), rng.normal(size=shape)
  variables = random_variables(rng, channels, scale=affine, bias=affine)
  layer = BatchNorm(use_scale=affine, use_bias=affine)

  @jax.jit
  def step(variables, x):
    def forward(params, x):
      return layer.apply(
        {**variables, 'params': params}, x, train=True, groups=groups, mutable=['batch_stats']
      )

    y, vjp, new = jax.vjp(forward, variables['params'], x, has_aux=True)
    return y, {**variables, **new}, *vjp(jnp.asarray(cotangent))

  reference = (torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d)(
    channels, affine=affine, dtype=torch.float64
  )
  with torch.no_grad():
    reference.running_mean.copy_(torch.tensor(variables['batch_stats']['mean']))
    reference.running_var.copy_(torch.tensor(variables['batch_stats']['var']))
    if affine:
      reference.weight.copy_(torch.tensor(variables['params']['scale']))
      reference.bias.copy_(torch.tensor(variables['params']['bias']))

  def views_of(a):
    return [np.moveaxis(a[g::groups], -1, 1) for g in range(groups)]

  for i in range(2):
    y, variables, grad_params, grad_x = step(variables, x[i])
    reference.zero_grad()
    inputs = [torch.tensor(v, requires_grad=True) for v in views_of(x[i])]
    outputs = [reference(v) for v in inputs]
    weights = [torch.tensor(v) for v in views_of(cotangent)]
    sum((w * o).sum() for w, o in zip(weights, outputs, strict=True)).backward()
    for actual, expected in zip(views_of(np.asarray(y)), outputs, strict=True):
      np.testing.assert_allclose(actual, expected.detach(), atol=1e-12)
    for actual, expected in zip(views_of(np.asarray(grad_x)), inputs, strict=True):
      np.testing.assert_allclose(actual, expected.grad, atol=1e-12)
    if affine:
      np.testing.assert_allclose(grad_params['scale'], reference.weight.grad, atol=1e-12)
      np.testing.assert_allclose(grad_params['bias'], reference.bias.grad, atol=1e-12)
    assert variables['batch_stats']['mean'].dtype == 'float64'
    np.testing.assert_allclose(variables['batch_stats']['mean'], reference.running_mean, atol=1e-12)
    np.testing.assert_allclose(variables['batch_stats']['var'], reference.running_var, atol=1e-12)
  reference.eval()
  y = layer.apply(variables, x[0], train=False)
  expected = reference(torch.tensor(np.moveaxis(x[0], -1, 1))).detach().numpy()
  np.testing.assert_allclose(y, np.moveaxis(expected, 1, -1), atol=1e-12)


@pytest.mark.parametrize('wide', [False, True])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_statistics_stay_float32(dtype, wide):
  with jax.enable_x64(wide):
    x = jnp.arange(12, dtype=dtype).reshape(4, 3)
    layer = BatchNorm()
    variables = layer.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables['batch_stats']['mean'], np.zeros(3))  # init is no step
    y, new = layer.apply(variables, x, train=True, groups=2, mutable=['batch_stats'])
    assert y.dtype == dtype
    assert {v.dtype.name for v in jax.tree.leaves((variables, new))} == {'float32'}
    assert layer.apply(variables, x, train=False).dtype == dtype


def test_variance_of_inputs_far_from_zero():
  x = 1000 + jax.random.normal(jax.random.key(0), (512, 1)) * 0.05
  layer = BatchNorm(momentum=0.0)
  variables = layer.init(jax.random.key(0), x, train=False)
  y, new = layer.apply(variables, x, train=True, mutable=['batch_stats'])
  exact = np.var(np.asarray(x, np.float64), ddof=1)
  np.testing.assert_allclose(new['batch_stats']['var'][0], exact, rtol=1e-3)
  np.testing.assert_allclose(np.std(np.asarray(y)), np.sqrt(exact / (exact + 1e-5)), rtol=1e-3)


def test_statistics_are_those_of_the_global_batch(x64):
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ('data',))
  x = jax.random.normal(jax.random.key(0), (16, 3), 'float64')
  layer = BatchNorm()
  variables = layer.init(jax.random.key(0), x, train=False)
  step = jax.jit(lambda x: layer.apply(variables, x, train=True, groups=2, mutable=['batch_stats']))
  spread = jax.device_put(x, jax.NamedSharding(mesh, jax.P('data')))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), step(x), step(spread))


def test_bad_batches():
  layer = BatchNorm()
  with pytest.raises(UserError, match='5 rows into 2'):
    layer.init(jax.random.key(0), jnp.ones((5, 3)), train=True, groups=2)
  with pytest.raises(UserError, match='larger batch'):
    layer.init(jax.random.key(0), jnp.ones((2, 3)), train=True, groups=2)


@pytest.mark.parametrize('groups', [1, 2])
def test_first_and_second_derivatives_are_those_of_the_formula(x64, groups):
  """Forward over forward, reverse over reverse: Tikhonov and the loss surface take them."""
  rng = np.random.default_rng(0)
  args = rng.normal(1, 2, (8, 3, 2)), rng.normal(size=2), rng.normal(size=2)
  weights = rng.normal(size=(8, 3, 2))
  layer = BatchNorm()
  stats = {'mean': jnp.zeros(2), 'var': jnp.ones(2)}

  def ours(x, scale, bias):
    variables = {'params': {'scale': scale, 'bias': bias}, 'batch_stats': stats}
    y, new = layer.apply(variables, x, train=True, groups=groups, mutable=['batch_stats'])
    return (y**2 * weights).sum() + sum(jnp.sum(v**2) for v in jax.tree.leaves(new))

  def formula(x, scale, bias):
    outputs, running = [], [stats['mean'], stats['var']]
    for group in range(groups):
      rows = x[group::groups].reshape(-1, 2)
      mean, var = rows.mean(0), rows.var(0)
      y = (x[group::groups] - mean) / jnp.sqrt(var + 1e-5) * scale + bias
      outputs.append((y**2 * weights[group::groups]).sum())
      new = (mean, var * len(rows) / (len(rows) - 1))
      running = [0.9 * old + 0.1 * v for old, v in zip(running, new, strict=True)]
    return sum(outputs) + sum(jnp.sum(v**2) for v in running)

  def derivatives(f):
    tangents = tuple(jnp.cos(a) for a in args)

    def directional(*args):
      return jax.jvp(f, args, tangents)[1]

    def norm(*args):
      return sum(jnp.sum(g**2) for g in jax.grad(f, (0, 1, 2))(*args))

    with jax.numpy_rank_promotion('allow'):
      return jax.jit(
        lambda *args: (
          f(*args),
          jax.grad(f, (0, 1, 2))(*args),
          jax.jvp(directional, args, tangents),
          jax.grad(norm, (0, 1, 2))(*args),
        )
      )(*map(jnp.asarray, args))

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10),
    derivatives(ours),
    derivatives(formula),
  )
