"""The layer-by-layer loss: values, which stage's gradient goes where, and the checks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import models
from clr_jax.core.errors import UserError
from clr_jax.core.types import Batch, Out
from clr_jax.models.siamese import Chain
from clr_jax.wrappers.layerwise import layerwise
from tests import toy
from tests.experiment import from_config as by_config

STEP = jnp.zeros([], jnp.int32)
KEY = jax.random.key(5)
WEIGHTS = (0.01, 0.1, 1.0)


def nt_xent(z, temperature):
  """[B, V, D] -> mean over anchors, as written in the paper."""
  rows = np.asarray(z, np.float64)
  size, views, _ = rows.shape
  rows = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).transpose(1, 0, 2)
  rows = rows.reshape(views * size, -1)
  losses = []
  for i, row in enumerate(rows):
    scores = np.exp(rows @ row / temperature)
    losses.append(-np.log(scores[(i + size) % len(rows)] / (scores.sum() - scores[i])))
  return np.mean(losses)


def silent():
  """A method whose own loss is the number 3."""
  method = toy.method('simclr')
  return method._replace(loss=lambda *args: (jnp.float32(3), {'kept': 1}, {'m': jnp.float32(2)}))


def stages(sizes=(4, 7, 5), num_views=2):
  rng = np.random.default_rng(5)
  return {
    f'stage{k}': jnp.asarray(rng.normal(size=[6, num_views, size]), jnp.float32)
    for k, size in enumerate(sizes, 1)
  }


def loss_of(method, extra):
  return method.loss(Out(extra=extra), {}, Batch(), KEY, STEP)


@pytest.mark.slow
@pytest.mark.parametrize('temperature', [0.5, 0.1])
@pytest.mark.parametrize('weights', [WEIGHTS, (0, 0, 1.0), (2.0, 0.0, 0.5)])
def test_values(weights, temperature):
  rows = stages()
  method = layerwise(silent(), toy.INFO, weights=weights, temperature=temperature)
  value, carry, metrics = loss_of(method, {'stages': rows})
  expected = sum(w * nt_xent(rows[f'stage{k}'], temperature) for k, w in enumerate(weights, 1))
  np.testing.assert_allclose(value, 3 + expected, rtol=1e-5)
  np.testing.assert_allclose(metrics['layerwise_loss'], expected, rtol=1e-5)
  assert carry == {'kept': 1} and metrics['m'] == 2


def test_ten_stages_stay_in_order():
  """A dict that went through jax is sorted by name: stage10 before stage2."""
  rows = jax.tree.map(lambda x: x, stages(sizes=(3,) * 11))
  method = layerwise(silent(), toy.INFO, weights=(0.0,) * 9 + (1.0, 0.0))
  value = loss_of(method, {'stages': rows})[0]
  np.testing.assert_allclose(value, 3 + nt_xent(rows['stage10'], 0.5), rtol=1e-5)


@pytest.mark.parametrize(
  'weights, extra, message',
  [
    ((1.0, 1.0), {'stages': stages()}, 'has 2 values and the backbone 3 stages'),
    (WEIGHTS, {'stages': {}}, 'the backbone 0 stages'),
    (WEIGHTS, {}, 'the backbone 0 stages'),
    (WEIGHTS, {'stages': stages(num_views=1)}, 'symmetric'),
  ],
)
def test_stages_that_do_not_fit(weights, extra, message):
  with pytest.raises(UserError, match=message):
    loss_of(layerwise(silent(), toy.INFO, weights=weights), extra)


def test_weights_that_add_nothing():
  method = silent()
  assert layerwise(method, toy.INFO) is method
  with pytest.raises(UserError, match=r'layerwise\.weights=\(0.0, 0.0\) adds nothing'):
    layerwise(method, toy.INFO, weights=(0.0, 0.0))


@pytest.mark.parametrize(
  'options, message',
  [
    ({'weights': (1.0, -1.0)}, r'layerwise\.weights=\(1.0, -1.0\) is not allowed'),
    ({'weights': (1.0, float('nan'))}, r'layerwise\.weights=\(1.0, nan\) is not allowed'),
    ({'weights': WEIGHTS, 'temperature': 0.0}, r'layerwise\.temperature=0.0 is not allowed'),
    ({'temperature': 0.1}, r'temperature=0.1 has no effect unless plugins.layerwise.weights'),
  ],
)
def test_options_that_cannot_work(options, message):
  with pytest.raises(UserError, match=message):
    by_config.make('simclr', **{f'layerwise__{k}': v for k, v in options.items()})


@pytest.mark.parametrize(
  'name',
  [
    pytest.param('simclr', marks=pytest.mark.slow),
    pytest.param('byol', marks=pytest.mark.weekly),
  ],
)
def test_gradient_of_a_stage(name):
  """Stage 2 alone teaches the stem and stages 1 and 2 of the online network, nothing behind."""
  method = toy.method(name, models.make('resnet_tiny', width=2))
  silent = method._replace(loss=lambda *args: (0.0, {}, {}))
  method = layerwise(silent, toy.INFO, weights=(0, 1.0, 0))

  @jax.jit
  def run():
    params, state = method.init(KEY, toy.viewed())

    def loss(params):
      out, _ = method.embed(params, state, toy.viewed(), KEY, STEP)
      return method.loss(out, state, toy.viewed(), KEY, STEP)[0], out

    return jax.grad(loss, has_aux=True)(params)

  grad, out = run()
  reached = {
    k: any((x != 0).any() for x in jax.tree.leaves(v)) for k, v in grad['backbone'].items()
  }
  assert reached == {k: not k.startswith('layer3') for k in reached}
  heads = [v for k, v in grad.items() if k != 'backbone']
  assert all((x == 0).all() for x in jax.tree.leaves(heads))
  shapes = {k: v.shape for k, v in out.extra['stages'].items()}
  assert shapes == {f'stage{k}': (toy.BATCH, 2, 2**k) for k in (1, 2, 3)}
  np.testing.assert_array_equal(out.extra['stages']['stage3'], out.h)


@pytest.mark.slow
def test_stages_are_the_pooled_maps():
  model = models.make('resnet_tiny', width=2)
  images = toy.viewed().views['global'][:, 0]
  variables = jax.jit(functools.partial(model.init, train=False))(KEY, images)
  assert set(variables) == {'params', 'batch_stats'}

  @jax.jit
  def run(variables):
    mutable = ['batch_stats', 'stages']
    (_, maps), updated = model.apply(variables, images, train=True, stages=True, mutable=mutable)
    return maps, updated['stages']

  maps, pooled = run(variables)
  assert list(pooled) == ['stage1', 'stage2', 'stage3']
  for name, rows in pooled.items():
    np.testing.assert_allclose(rows, maps[name].mean((1, 2)), rtol=1e-5)
    assert (rows >= 0).all() and rows.dtype == jnp.float32


def test_stages_only_when_asked_for():
  model = models.make('resnet_tiny', width=2)
  chain, images = Chain({'backbone': model}), toy.viewed().views['global'][:, 0]

  def outputs(**options):
    def run():
      return chain.apply(*chain.init(KEY, images), images, train=True, **options)[0]

    return set(jax.eval_shape(run))

  assert outputs() == {'backbone'} and outputs(stages=True) == {'backbone', 'stages'}


@pytest.mark.slow
def test_eight_devices_equal_one(x64):
  method = toy.method('simclr', toy.Staged())
  toy.same_on_eight_devices(layerwise(method, toy.INFO, weights=(0.1, 1.0)))
