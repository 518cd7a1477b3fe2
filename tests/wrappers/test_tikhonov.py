"""Input-gradient penalties around methods: what is added, and what stays as it was."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import models
from clr_jax.core.errors import UserError
from clr_jax.core.types import Batch
from clr_jax.experiment.method import make_method
from clr_jax.losses import tikhonov as losses
from clr_jax.ops.random import Stream, stream
from clr_jax.wrappers import tikhonov as wrapper
from clr_jax.wrappers.layerwise import layerwise, stage_losses
from clr_jax.wrappers.online_probe import online_probe
from clr_jax.wrappers.un_mix import un_mix
from tests import tiny, toy
from tests.experiment import from_config
from tests.method_cases import SKELETONS

STEP = jnp.zeros([], jnp.int32)
KEY = jax.random.key(5)
METHODS = [
  pytest.param(n, marks=[pytest.mark.slow] * (n != 'moco')) for n in (*SKELETONS, 'un_mix')
]


def tikhonov(method, **options):
  return wrapper.tikhonov(method, toy.INFO, **options)


def make(name, *, norm=True):
  return toy.method(name, toy.Tiny(norm=norm))


LOSS_KEY = stream(KEY, Stream.TIKHONOV)  # the wrapper's, for random losses


def value_grad_and_rest(method, params, state, batch):
  """(loss, gradient, carry, metrics) as the train step computes them."""

  def loss(params):
    out, carry = method.embed(params, state, batch, KEY, STEP)
    value, more, metrics = method.loss(out, state, batch, LOSS_KEY, STEP)
    return value, ({**carry, **more}, metrics)

  (value, (carry, metrics)), grad = jax.value_and_grad(loss, has_aux=True)(params)
  return value, grad, carry, metrics


def close(a, b, tolerance=1e-9):
  scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(b)) or 1.0
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale), a, b)


def start(method, batch):
  """Initial parameters and state in the precision of the run."""
  return jax.tree.map(
    lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x,
    method.init(KEY, batch),
  )


@pytest.mark.parametrize('name', METHODS)
def test_routes_agree_and_the_weight_is_a_factor(name, x64):
  """With BatchNorm: the routes' gradients, the loss affine in the weight, the plain carry."""
  method, batch = make('simclr' if name == 'un_mix' else name), toy.viewed(name)
  if name == 'un_mix':
    method = un_mix(method, toy.INFO, enabled=True)

  params, state = jax.jit(lambda: start(method, batch))()
  wrapped = [
    tikhonov(method, weight=weight, route=route)
    for weight, route in ((1.0, 'jvp'), (1.0, 'double'), (3.0, 'jvp'))
  ]
  # A program for each: all in one, the code generator that conftest.py chooses (XLA of JAX 0.10.2)
  # fuses InfoMin's gradients to 2e-9 of what each program gives, 1e-15 apart, by itself.
  plain, jvp, double, heavier = (
    jax.jit(lambda p, s, m=m: value_grad_and_rest(m, p, s, batch))(params, state)
    for m in (method, *wrapped)
  )
  assert jax.tree.structure(jvp[2]) == jax.tree.structure(plain[2])
  close(jvp[2]['batch_stats'], plain[2]['batch_stats'])
  penalty = jvp[3]['tikhonov_penalty']
  assert penalty > 0 and jvp[3]['input_gradient_norm'] > 0
  for i in (0, 1, 3):  # the norm's value, and all else that is reported, too
    close(jvp[i], double[i])
  assert any(np.abs(x).max() > 1e-9 for x in jax.tree.leaves(jvp[1]))
  close(jvp[0] - plain[0], penalty / 2, 1e-8)
  close(heavier[0] - plain[0], 3 * penalty / 2, 1e-8)
  slopes = [jax.tree.map(lambda a, b: a - b, x[1], plain[1]) for x in (heavier, jvp)]
  close(slopes[0], jax.tree.map(lambda x: 3 * x, slopes[1]))


@pytest.mark.slow
def test_own_gradients_of_the_supervised_loss(x64):
  """Eq. 2 example by example; the gradient of the mean is smaller by the number of examples."""
  method, batch = make('supervised', norm=False), toy.viewed()

  @jax.jit
  def run():
    params, state = start(method, batch)

    def own(view, label):
      one = Batch(label=label[None], views={'global': view[None, None]})

      def loss(views):
        out, _ = method.embed(params, state, one._replace(views=views), KEY, STEP)
        return method.loss(out, state, one, KEY, STEP)[0]

      return jax.grad(loss)(one.views)['global']

    gradients = jax.vmap(jax.vmap(own, (0, None)))(batch.views['global'], batch.label)
    kinds = ('auto', 'own', 'batch_mean', 'batch')
    wrapped = [tikhonov(method, weight=2.0, grad_of=kind) for kind in kinds]
    found = [value_grad_and_rest(m, params, state, batch) for m in (method, *wrapped)]
    return jnp.sum(gradients**2, range(2, gradients.ndim)), found

  squares, (plain, default, own, batch_mean, summed) = run()
  close(default, own)
  close(own[3]['tikhonov_penalty'], squares.mean())
  close(own[3]['input_gradient_norm'], np.sqrt(squares).mean())
  close(own[0] - plain[0], squares.mean())
  rows = squares.size
  close(batch_mean[3]['tikhonov_penalty'], squares.mean() / rows**2)
  close(batch_mean[3]['input_gradient_norm'], np.sqrt(squares).mean() / rows)
  close(summed[3]['tikhonov_penalty'], squares.sum() / rows**2 / 2)
  of_penalty, smaller = (
    jax.tree.map(lambda a, b: a - b, x[1], plain[1]) for x in (own, batch_mean)
  )
  close(jax.tree.map(lambda x: rows**2 * x, smaller), of_penalty)


@pytest.mark.parametrize('route', get_args(losses.Route))
def test_where_gradients_vanish(route):
  """No NaN from a norm at 0."""

  def penalty(w):
    def loss(x):
      return [(w * x['used']).sum() ** 2, (0 * x['other']).sum()], None

    x = {'used': jnp.zeros([2, 1, 3]), 'other': jnp.ones([2, 2, 3])}
    found = losses.input_gradient_penalties(loss, x, route=route)
    return found.halves.sum() + losses.norms_per_image(found.gradients[0]).sum()

  value, grad = jax.jit(jax.value_and_grad(penalty))(2.0)
  assert value == 0 and grad == 0


def test_directions_of_finite_differences(x64):
  """Along each, a linear loss changes by the dual norm of its gradient; 0 rows stay 0."""
  g = np.random.default_rng(0).normal(size=[4, 3, 2])
  g[1] = 0
  x = jnp.ones(g.shape)
  axes = (1, 2)
  expected = {
    'l2': np.sqrt((g**2).sum(axes)),
    'l1': np.abs(g).sum(axes) / np.sqrt(6),
    'linf': np.abs(g).max(axes),
  }
  assert set(expected) == set(get_args(losses.Norm))

  @jax.jit
  def run():
    directions = {norm: losses.dual_direction(g, norm=norm) for norm in expected}
    of = functools.partial(losses.directional_derivatives, lambda x: (g * x).sum(axes), x, step=0.1)
    return directions, {n: [of(d, order=i) for i in (1, 2)] for n, d in directions.items()}

  directions, found = run()
  for norm, size in expected.items():
    assert not directions[norm][1].any()
    for change in found[norm]:
      close(change, size)


def test_second_order_is_exact_for_squares(x64):
  x = jnp.arange(1.0, 7.0).reshape(3, 2)
  ones = jnp.ones_like(x)
  of_order = functools.partial(
    losses.directional_derivatives, lambda x: (x**2).sum(1), x, ones, step=0.1
  )
  close(of_order(order=2), 2 * x.sum(1))
  close(of_order(order=1), 2 * x.sum(1) + 0.1 * 2)


@pytest.mark.parametrize('order, step', [(3, 0.1), (1, 0.0), (1, -1.0), (2, float('inf'))])
def test_finite_differences_that_cannot_be(order, step):
  with pytest.raises(UserError, match=f'order={order}' if order == 3 else f'step={step}'):
    losses.directional_derivatives(jnp.sum, jnp.ones(2), jnp.ones(2), step=step, order=order)


@pytest.mark.slow
@pytest.mark.parametrize('weight', [0.0, 2.0])
def test_layers(weight, x64):
  """Eq. 5 beside eq. 3: each stage's own loss, whatever its weight in the loss."""
  alphas, betas = (0.0, 0.5), (3.0, 0.1)
  of_stages = functools.partial(stage_losses, count=2, temperature=0.5)
  method = layerwise(toy.method('simclr', toy.Staged()), toy.INFO, weights=alphas)
  wrapped = tikhonov(method, weight=weight, layer_weights=betas)

  @jax.jit
  def run():
    batch = toy.viewed()
    params, state = start(method, batch)

    def of(choose):
      def loss(views):
        out, _ = method.embed(params, state, batch._replace(views=views), KEY, STEP)
        return choose(out)

      return losses.input_gradient_penalties(lambda v: ([loss(v)], None), batch.views).halves[0]

    stages = [of(lambda out, k=k: of_stages(out)[k]) for k in range(2)]
    whole = of(lambda out: method.loss(out, state, batch, KEY, STEP)[0])
    found = [value_grad_and_rest(m, params, state, batch) for m in (method, wrapped)]
    return stages, whole, found

  stages, whole, (plain, found) = run()
  penalty = sum(b * r for b, r in zip(betas, stages, strict=True))
  close(found[3]['tikhonov_layer_penalty'], penalty)
  close(found[0] - plain[0], penalty + weight / 2 * whole, 1e-8)
  assert ('tikhonov_penalty' in found[3]) == bool(weight)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'route': 'jvp '}, "tikhonov.route='jvp ' is not allowed.*'jvp', 'double'"),
    ({'grad_of': 'sum'}, "tikhonov.grad_of='sum' is not.*'auto', 'batch', 'own', 'batch_mean'"),
    ({'grad_of': 'own'}, 'the loss of simclr couples the images.*grad_of=batch'),
    ({'weight': -1.0}, r'tikhonov\.weight=-1.0 is not allowed'),
    ({'weight': float('nan')}, r'tikhonov\.weight=nan is not allowed'),
    ({'layer_weights': (1.0, float('inf'), 1.0)}, r'tikhonov\.layer_weights=\S.* is not allowed'),
    ({'layer_weights': (0.1, 0.1, 0.1)}, 'set plugins.layerwise.weights, too'),
  ],
)
def test_refused(changes, words):
  changes = {f'tikhonov__{k}': v for k, v in {'weight': 1.0, **changes}.items()}
  with pytest.raises(UserError, match=words):
    from_config.make('simclr', **changes)


@pytest.mark.parametrize('option, value', [('route', 'double'), ('grad_of', 'batch')])
def test_idle_options_are_refused(option, value):
  words = f'{option}={value} has no effect unless .*weight is set or .*layer_weights is set'
  with pytest.raises(UserError, match=words):
    from_config.make('simclr', **{f'tikhonov__{option}': value})


def test_no_positive_weight():
  method = layerwise(make('simclr'), toy.INFO, weights=(0.1, 0.1))
  assert tikhonov(method) is method
  with pytest.raises(UserError, match='needs a positive'):
    tikhonov(method, layer_weights=(0.0, 0.0))


def test_with_layerwise_no_image_has_a_loss_of_its_own():
  changes = {'layerwise__weights': (0.1, 0.1, 0.1), 'tikhonov__weight': 1.0}
  from_config.make('supervised', **changes)
  with pytest.raises(UserError, match='supervised with layerwise couples'):
    from_config.make('supervised', **changes, tikhonov__grad_of='own')


def test_a_weight_for_every_stage():
  changes = {'layerwise__weights': (0.1, 0.1, 0.1), 'tikhonov__layer_weights': (0.1, 0.2)}
  _, method = from_config.make('simclr', **changes)
  batch = jax.eval_shape(toy.viewed)

  def run(batch):
    params, state = method.init(KEY, batch)
    return method.embed(params, state, batch, KEY, STEP)

  with pytest.raises(UserError, match='layer_weights has 2 values and the backbone 3 stages'):
    jax.eval_shape(run, batch)


@pytest.mark.slow
def test_it_regularizes_all_that_is_added_to_the_loss():
  """From a config: outside of un_mix and layerwise; the plain method has none of it."""
  config = tiny.get_config('simclr')
  config.plugins.un_mix.enabled = True
  config.plugins.layerwise.weights = (0.1, 1.0)
  config.plugins.tikhonov.update({'weight': 1.0, 'layer_weights': (0.0, 0.1)})
  plain, method = make_method(config, toy.Staged(), from_config.INFO)
  batch = jax.eval_shape(toy.viewed)

  def run(method, batch):
    params, state = method.init(KEY, batch)
    return value_grad_and_rest(method, params, state, batch)[3]

  metrics = jax.eval_shape(functools.partial(run, method), batch)
  assert {'mixed_loss', 'layerwise_loss', 'tikhonov_penalty', 'tikhonov_layer_penalty'} <= set(
    metrics
  )
  assert not jax.eval_shape(functools.partial(run, plain), batch)


def regularized(name, backbone=None, route='jvp'):
  """A small method with the penalty, inside the probe."""
  method = tikhonov(toy.method(name, backbone), weight=1.0, route=route)
  return online_probe(method, toy.INFO)


@pytest.mark.slow
def test_training():
  """One compilation, a stable state, metrics and parameters finite."""
  init, step = toy.training(regularized('simclr'))
  state, step = jax.jit(init)(jax.random.key(1)), jax.jit(step)
  before = jax.tree.map(lambda x: (x.shape, x.dtype), state)
  state, metrics = step(state, toy.batch(0))
  with toy.no_compilation():
    state, metrics = step(state, toy.batch(1))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == before
  assert {'input_gradient_norm', 'probe_top1'} <= set(metrics)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((metrics, state.params)))


@pytest.mark.parametrize(
  'name, sam',
  [
    pytest.param('simclr', None, marks=pytest.mark.weekly),
    pytest.param('moco', None, marks=pytest.mark.weekly),
    pytest.param('sogclr', None, marks=pytest.mark.weekly),
    pytest.param('supervised', None, marks=pytest.mark.slow),
    pytest.param('sogclr', {'rho': 0.05}, marks=pytest.mark.slow),
  ],
)
def test_eight_devices_equal_one(name, sam, x64):
  toy.same_on_eight_devices(regularized(name), sam=sam)


@pytest.mark.parametrize(
  'route, dtype',
  [
    pytest.param('jvp', jnp.bfloat16, marks=pytest.mark.slow),
    pytest.param('double', jnp.float32, marks=pytest.mark.slow),
    pytest.param('jvp', jnp.float32, marks=pytest.mark.weekly),
    pytest.param('double', jnp.bfloat16, marks=pytest.mark.weekly),
  ],
)
def test_finite_with_convolutions(route, dtype):
  method = regularized('simclr', models.make('resnet_tiny', width=4, dtype=dtype), route)
  init, step = toy.training(method)
  state, step = jax.jit(init)(jax.random.key(0)), jax.jit(step)
  for i in range(2):
    state, metrics = step(state, toy.batch(i))
  assert all(np.isfinite(v) for v in metrics.values()) and metrics['tikhonov_penalty'] > 0
  for leaf in jax.tree.leaves((state.params, state.state)):
    assert leaf.dtype != jnp.bfloat16 and np.isfinite(leaf).all()


@pytest.mark.slow
def test_the_penalty_lowers_the_norm():
  """After 60 steps of the same run, by more the larger the weight."""
  norms = []
  for weight in (1e-9, 0.3, 1.0):
    method = tikhonov(make('simclr'), weight=weight)
    norms.append(norm_after_training(method))
  assert norms[2] < norms[1] < 0.9 * norms[0]


def norm_after_training(method, steps=60, learning_rate=0.05):
  @jax.jit
  def step(params, state, batch):
    _, grad, carry, metrics = value_grad_and_rest(method, params, state, batch)
    params = jax.tree.map(lambda p, g: p - learning_rate * g, params, grad)
    return *method.post_update(params, state, carry, STEP), metrics

  params, state = jax.jit(method.init)(KEY, toy.viewed())
  found = []
  for i in range(steps):
    batch = toy.batch(i)
    views = toy.views(jax.random.key(i), jnp.asarray(batch.image))
    params, state, metrics = step(params, state, batch._replace(views=views, image=None))
    found.append(float(metrics['input_gradient_norm']))
  return np.mean(found[-10:])
