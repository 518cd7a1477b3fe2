"""The skeleton with an EMA target, on a network of one layer, and the checks of its methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from clr_jax import methods, models
from clr_jax.core.errors import UserError
from clr_jax.core.types import Batch, Out
from clr_jax.models import heads
from clr_jax.skeletons.self_distillation import distillation
from tests.methods.four_images import INFO, STEP, Tiny, batch


def make(predictor=True, **hyper):
  hyper = {'momentum': 0.9, 'final_momentum': 1.0, 'ema_index': 'current', **hyper}
  return distillation(
    'byol',
    {'backbone': Tiny(), 'projector': heads.make('byol', hidden_dim=4, out_dim=3)},
    lambda out, *_: ((out.online**2).sum(), {}, {}),
    INFO,
    pairs='own',
    predictor=heads.make('byol', hidden_dim=4, out_dim=3) if predictor else None,
    **hyper,
  )


def start(method, **kwargs):
  return jax.jit(method.init)(jax.random.key(1), batch(**kwargs))


def test_the_target_starts_as_a_copy_of_the_encoder_in_its_own_buffers():
  params, state = start(make())
  assert set(params) == {'backbone', 'projector', 'predictor'}
  assert set(state['target']['params']) == {'backbone', 'projector'}
  for name, target in state['target']['params'].items():
    jax.tree.map(np.testing.assert_array_equal, target, params[name])

  def pointers(tree):
    return {x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)}

  assert not pointers(params) & pointers(state['target'])
  assert not pointers(state['batch_stats']) & pointers(state['target'])


@pytest.mark.slow
@pytest.mark.parametrize(('ema_index', 'step'), [('current', 7), ('next', 8)])
def test_average_of_parameters_only_with_the_momentum_of_its_index(ema_index, step):
  method = make(ema_index=ema_index)
  params, state = start(method)
  _, carry = jax.jit(method.embed)(params, state, batch(), jax.random.key(0), STEP)
  moved = jax.tree.map(lambda x: x + 1, params)
  same, new = jax.jit(method.post_update)(moved, state, carry, jnp.asarray(7))
  jax.tree.map(np.testing.assert_array_equal, same, moved)
  momentum = 1 - 0.1 * (1 + np.cos(np.pi * step / 50)) / 2
  for name, target in new['target']['params'].items():
    jax.tree.map(
      lambda t, p: np.testing.assert_allclose(t, p + 1 - momentum, rtol=1e-5), target, params[name]
    )
  # Statistics are each network's own. Both saw the same images with the same parameters.
  for key, stats in new['target']['batch_stats'].items():
    jax.tree.map(np.testing.assert_array_equal, stats, carry['target_stats'][key])
    jax.tree.map(np.testing.assert_array_equal, stats, new['batch_stats'][key])
  assert 'predictor' in new['batch_stats']


def test_views_of_each_network():
  method = make(online_views=slice(0, 1), target_views=slice(1, 2))
  out, _ = jax.jit(method.embed)(*start(method), batch(), jax.random.key(0), STEP)
  assert out.online.shape == out.target.shape == out.h.shape == (4, 1, 3)
  both = make(predictor=False)
  params, state = start(both)
  out, _ = jax.jit(both.embed)(params, state, batch(), jax.random.key(0), STEP)
  np.testing.assert_array_equal(out.online, out.target)  # equal networks before the first step


@pytest.mark.slow
def test_local_views_pass_the_online_network_only_and_last():
  params, state = start(make(), num_local=3)
  outs = [
    jax.jit(make(local_views=local).embed)(params, state, batch(3), jax.random.key(0), STEP)
    for local in (True, False)
  ]
  (out, carry), (without, without_carry) = outs
  assert out.online.shape == (4, 5, 3) and out.target.shape == out.h.shape == (4, 2, 3)
  np.testing.assert_array_equal(out.online[:, :2], without.online)
  jax.tree.map(np.testing.assert_array_equal, carry['target_stats'], without_carry['target_stats'])
  mean = [c['batch_stats']['backbone']['BatchNorm_0']['mean'] for c in (carry, without_carry)]
  assert (mean[0] != mean[1]).any()  # the local views update the online statistics after


def test_the_loss_reaches_every_online_parameter_and_not_the_target():
  method = make()
  params, state = start(method)

  def loss(params, target):
    changed = {**state, 'target': {**state['target'], 'params': target}}
    out, _ = method.embed(params, changed, batch(), jax.random.key(0), STEP)
    return (out.online * out.target).sum()

  online, target = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, state['target']['params'])
  assert all(np.abs(v).max() > 0 for v in jax.tree.leaves(online['predictor']['linear1']))
  assert all((v == 0).all() for v in jax.tree.leaves(target))


def test_represent_target_is_the_averaged_network():
  params, state = start(make())
  moved = jax.tree.map(lambda x: x * 2 + 0.1, params)
  images = batch().views['global'][:, 0]
  online, target, before = (
    make(represent=which).represent(p, state, images)
    for which, p in (('online', moved), ('target', moved), ('online', params))
  )
  assert set(online) == {'h', 'z'}
  assert (online['z'] != target['z']).any()
  jax.tree.map(np.testing.assert_array_equal, target, before)


@pytest.mark.slow
def test_tico_carries_the_covariance_of_view_0_from_step_to_step():
  method = methods.factory('tico')(Tiny(), INFO, hidden_dim=4, out_dim=3, beta=0.75)
  params, state = start(method)
  expected = np.zeros([3, 3])
  np.testing.assert_array_equal(state['covariance'], expected)
  for _ in range(2):
    out, carry = jax.jit(method.embed)(params, state, batch(), jax.random.key(0), STEP)
    _, added, _ = method.loss(out, state, batch(), jax.random.key(0), STEP)
    params, state = method.post_update(params, state, {**carry, **added}, STEP)
    z = np.asarray(out.online[:, 0])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    expected = 0.75 * expected + 0.25 * z.T @ z / len(z)
    np.testing.assert_allclose(state['covariance'], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'hyper', 'message'),
  [
    ('moco', {'queue_length': 3}, 'queue_length >= 4'),
    ('moco', {'queue_length': 6, 'symmetric': True}, 'queue_length >= 8'),
    ('moco_v2plus', {'queue_length': 3}, 'queue_length >= 4'),
    ('nnclr', {'queue_length': 3}, 'queue_length >= 4'),
    ('ressl', {'queue_length': 3}, 'queue_length >= 4'),
    ('dynamic_moco', {'queue_length': 6}, 'queue_length >= 8'),
    ('byol', {'final_momentum': 0.9}, 'momentum <= method.final_momentum, not 0.99 and 0.9'),
  ],
)
def test_impossible_settings_are_refused(name, hyper, message):
  with pytest.raises(UserError, match=message):
    methods.factory(name)(Tiny(), INFO, **hyper)


@pytest.mark.parametrize(
  'name',
  ['byol', 'dino', 'dynamic_moco', 'moco', 'moco_v2plus', 'moco_v3', 'nnclr', 'ressl', 'tico'],
)
def test_three_views_are_refused(name):
  with pytest.raises(UserError, match='num_views=2'):
    methods.factory(name)(Tiny(), INFO._replace(num_views=3))


def test_a_queue_longer_than_the_data_set_is_warned_of(monkeypatch):
  said = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: said.append(text % args))
  methods.factory('moco')(Tiny(), INFO, queue_length=100)
  assert not said
  methods.factory('moco')(Tiny(), INFO, queue_length=101)
  assert len(said) == 1 and '101' in said[0] and '100' in said[0]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['moco_v3', 'byol'])
def test_one_direction_is_a_part_of_both(name):
  """A symmetric loss is the sum over its two directions, each of which has one query view."""
  rng = np.random.default_rng(0)
  online, target = (jnp.asarray(rng.normal(size=[4, 2, 3])) for _ in range(2))
  network = models.make('resnet_tiny', width=2)

  def loss(symmetric, online, target):
    method = methods.factory(name)(network, INFO, symmetric=symmetric, hidden_dim=4, out_dim=3)
    return method.loss(Out(online, target), {}, Batch(), jax.random.key(0), STEP)[0]

  parts = [loss(False, online[:, v, None], target[:, 1 - v, None]) for v in range(2)]
  np.testing.assert_allclose(sum(parts), loss(True, online, target), rtol=1e-6)
  assert abs(parts[0] - parts[1]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('name', ['moco_v3', 'byol'])
def test_one_direction_embeds_view_0_and_the_target_view_1(name):
  options = {'symmetric': False, 'hidden_dim': 4, 'out_dim': 3, 'predictor_dim': 4}
  method = methods.factory(name)(Tiny(), INFO, **options)
  params, state = start(method)
  one = batch()

  def outputs(views):
    seen = Batch(views={'global': views})
    out, _ = jax.jit(method.embed)(params, state, seen, jax.random.key(0), STEP)
    return out.online, out.target

  views = one.views['global']
  online, target = outputs(views)
  assert online.shape == target.shape == (4, 1, 3)
  moved = outputs(views.at[:, 1].set(views[::-1, 1]))
  np.testing.assert_array_equal(moved[0], online)
  assert np.abs(np.asarray(moved[1]) - np.asarray(target)).max() > 1e-4


@pytest.mark.slow
def test_simsiam_is_a_quarter_of_byol_minus_one():
  rng = np.random.default_rng(0)
  out = Out(*(jnp.asarray(rng.normal(size=[4, 2, 3])) for _ in range(2)))
  network = models.make('resnet_tiny', width=2)

  def loss(name, out):
    method = methods.factory(name)(network, INFO, hidden_dim=4, out_dim=3)
    return method.loss(out, {}, Batch(), jax.random.key(0), STEP)[0]

  byol = loss('byol', out)
  np.testing.assert_allclose(loss('simsiam', out), byol / 4 - 1, rtol=1e-6)
  scaled = Out(3 * out.online, 0.1 * out.target)
  np.testing.assert_allclose(loss('byol', scaled), byol, rtol=1e-6)
