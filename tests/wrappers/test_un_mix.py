"""Un-Mix around methods: what is added to the loss, and what stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import methods
from clr_jax.augment import unmix
from clr_jax.core.errors import UserError
from clr_jax.core.types import PAIRS, Batch, Out
from clr_jax.ops.random import Stream, stream
from clr_jax.wrappers import un_mix as wrapper
from tests import toy
from tests.experiment import from_config as by_config
from tests.method_cases import SKELETONS

STEP = jnp.zeros([], jnp.int32)
KEY = jax.random.key(5)
TAKEN = ('byol', 'dcl', 'dynamic_moco', 'moco', 'moco_v2plus', 'moco_v3', 'nnclr', 'simclr')
TAKEN += ('simsiam', 'sogclr')
slow = pytest.mark.slow


def un_mix(method, **options):
  return wrapper.un_mix(method, toy.INFO, enabled=True, **options)


def make(name, *, norm=False, **options):
  return toy.method(name, toy.Tiny(norm=norm), **options)


def one_pass(method, params, state, batch):
  out, carry = method.embed(params, state, batch, KEY, STEP)
  value, more, metrics = method.loss(out, state, batch, KEY, STEP)
  return value, out, {**carry, **more}, metrics


def mixture(batch, probability):
  images = batch.views['global'][:, 0]
  key = stream(KEY, Stream.UN_MIX)
  size = {'height': images.shape[1], 'width': images.shape[2]}
  return unmix.mix(images, unmix.draw(key, **size, probability=probability))


@pytest.mark.parametrize(
  'name',
  [pytest.param(n, marks=[slow] * (n in TAKEN and n not in SKELETONS)) for n in methods.names()],
)
def test_every_method_takes_mixtures_or_says_why_not(name):
  method, batch = make(name), jax.eval_shape(lambda: toy.viewed(name))
  if method.pairs != 'own':
    assert name not in TAKEN
    with pytest.raises(UserError, match=f'does not support {name}, in which {PAIRS[method.pairs]}'):
      un_mix(method)
    return

  def whole(batch):
    params, state = method.init(KEY, batch)
    return one_pass(un_mix(method), params, state, batch)

  value, out, _, metrics = jax.eval_shape(whole, batch)
  assert value.shape == metrics['mixed_loss'].shape == ()
  assert out.extra['mixed'].shape == (toy.BATCH, 1, out.online.shape[-1])


def test_patches_stay_in_the_plain_term():
  """InfoMin's jigsaw loss does not meet the mixtures, and counts once."""
  method = make('infomin')
  rng = np.random.default_rng(0)
  rows = jnp.asarray(rng.normal(size=[4, 6, 16]), jnp.float32)
  queue = rows[0] / jnp.linalg.norm(rows[0], axis=-1, keepdims=True)
  state = {'queue': {'rows': queue, 'ptr': jnp.zeros([], jnp.int32)}}

  def loss(method, jigsaw, extra):
    out = Out(rows[1][:, None], rows[2][:, None], extra={'jigsaw': jigsaw, **extra})
    return method.loss(out, state, Batch(), KEY, STEP)[0]

  mixed = {'mixed': rows[3][:, None], 'mixed_lam': jnp.asarray(0.3)}

  @jax.jit
  def gradients(jigsaw):
    plain = jax.grad(lambda jigsaw: loss(method, jigsaw, {}))(jigsaw)
    return plain, jax.grad(lambda jigsaw: loss(un_mix(method), jigsaw, mixed))(jigsaw)

  plain, wrapped = gradients(rows[3])
  np.testing.assert_allclose(wrapped, plain, rtol=1e-6)
  assert np.abs(plain).max() > 0


def test_a_method_that_ignores_the_mixtures():
  deaf = make('simclr')._replace(name='new', embed=lambda *args: (Out(), {}))
  with pytest.raises(UserError, match=r'^new does not embed'):
    jax.eval_shape(lambda: un_mix(deaf).embed({}, {}, toy.viewed(), KEY, STEP))


@pytest.mark.parametrize('probability', [-0.1, 1.5, float('nan')])
def test_a_probability_that_cannot_be(probability):
  with pytest.raises(UserError, match=r'plugins\.un_mix\.probability=\S+ is not allowed'):
    by_config.make('simclr', un_mix__enabled=True, un_mix__probability=probability)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name, probability',
  [
    ('moco', 1.0),
    ('simclr', 0.0),
    pytest.param('moco', 0.0, marks=slow),
    pytest.param('simclr', 1.0, marks=slow),
  ],
)
def test_the_total(name, probability):
  """The mixtures as a batch of their own: in place of every query, or of view 0."""
  symmetric = name == 'moco'
  method = make(name, symmetric=True) if symmetric else make(name, projector='linear')

  @jax.jit
  def values():
    batch = toy.viewed()
    params, state = method.init(KEY, batch)
    wrapped = un_mix(method, probability=probability)
    value, out, _, metrics = one_pass(wrapped, params, state, batch)
    mixed = mixture(batch, probability)
    views = jnp.stack([mixed.images, mixed.images], 1)
    z, _ = method.embed(params, state, batch._replace(views={'global': views}), KEY, STEP)

    def loss(mixed):
      second = mixed if symmetric else out.online[:, 1]
      online = jnp.stack([mixed, second], 1)
      return method.loss(out._replace(online=online), state, batch, KEY, STEP)[0]

    rows = z.online[:, 0]
    expected = mixed.lam * loss(rows) + (1 - mixed.lam) * loss(rows[::-1])
    plain = method.loss(out, state, batch, KEY, STEP)[0]
    return (value, plain + expected), (metrics['mixed_loss'], expected), mixed.lam

  total, of_mixed, lam = values()
  np.testing.assert_allclose(*total, rtol=1e-5)
  np.testing.assert_allclose(*of_mixed, rtol=1e-5)
  assert 0.05 < lam < 0.95


@pytest.mark.slow
def test_a_share_of_one_doubles_the_loss(monkeypatch):
  """The mixtures are then the images, and their partners do not count."""
  whole = unmix.Draw(jnp.asarray(False), jnp.float32(1.0), jnp.zeros(2, jnp.int32))
  monkeypatch.setattr(unmix, 'draw', lambda key, **options: whole)
  method = make('moco')

  @jax.jit
  def values():
    params, state = method.init(KEY, toy.viewed())
    return [one_pass(m, params, state, toy.viewed())[0] for m in (method, un_mix(method))]

  plain, value = values()
  np.testing.assert_allclose(value, 2 * plain, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name, carried',
  [
    ('moco', 'queue'),
    pytest.param('sogclr', 'per_example', marks=slow),
    pytest.param('nnclr', 'queue', marks=slow),
  ],
)
def test_queues_and_tables_are_those_of_the_plain_term(name, carried):
  method = make(name, norm=True)

  @jax.jit
  def run():
    batch = toy.viewed()
    params, before = method.init(KEY, batch)

    def after(method):
      value, _, carry, _ = one_pass(method, params, before, batch)
      return value, method.post_update(params, before, carry, STEP)[1]

    plain, mixed = after(method), after(un_mix(method))
    # The official code's second forward: the statistics of the first pass, moved on by the second.
    first = plain[1]['batch_stats']['backbone']
    x = mixture(batch, 0.5).images
    _, second = method_backbone(params, first, x)
    return before, plain, mixed, second

  def method_backbone(params, statistics, x):
    variables = {'params': params['backbone'], 'batch_stats': statistics}
    return toy.Tiny(norm=True).apply(variables, x, train=True, mutable=['batch_stats'])

  before, (plain_value, plain), (value, mixed), second = run()
  jax.tree.map(np.testing.assert_array_equal, mixed[carried], plain[carried])
  assert not jax.tree.all(jax.tree.map(np.array_equal, plain[carried], before[carried]))
  assert jax.tree.structure(mixed) == jax.tree.structure(before) and value != plain_value
  statistics = mixed['batch_stats']['backbone']
  for a, b in zip(*map(jax.tree.leaves, (statistics, second['batch_stats'])), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  assert not np.allclose(
    *(jax.tree.leaves(s['batch_stats']['backbone'])[0] for s in (mixed, plain))
  )


@slow
def test_gradients():
  """Into the online network through the mixtures alone; not into the target network."""
  method = make('byol')
  wrapped = un_mix(method)

  @jax.jit
  def gradients():
    params, state = method.init(KEY, toy.viewed())

    def mixed_only(params, target):
      new = {**state, 'target': {**state['target'], 'params': target}}
      out, _ = wrapped.embed(params, new, toy.viewed(), KEY, STEP)
      out = out._replace(online=jax.lax.stop_gradient(out.online))
      return wrapped.loss(out, new, toy.viewed(), KEY, STEP)[0]

    return jax.grad(mixed_only, (0, 1))(params, state['target']['params'])

  online, target = gradients()
  for name in ('backbone', 'projector', 'predictor'):
    assert max(np.abs(x).max() for x in jax.tree.leaves(online[name])) > 0, name
  assert all((x == 0).all() for x in jax.tree.leaves(target))


@pytest.mark.slow
def test_local_views_count_in_the_plain_term_only():
  method = make('byol')
  sizes = zip(jax.random.split(KEY, 3), (5, 2, 1), strict=True)
  online, target, mixed = (jax.random.normal(key, [6, v, 4]) for key, v in sizes)
  out = Out(online, target, None, {'mixed': mixed, 'mixed_lam': jnp.float32(1.0)})

  def loss(method, out):
    return jax.jit(lambda out: method.loss(out, {}, Batch(), KEY, STEP)[0])(out)

  pair = loss(method, out._replace(online=mixed.repeat(2, 1)))
  value = loss(un_mix(method), out)
  np.testing.assert_allclose(value, loss(method, out) + pair, rtol=1e-6)


@slow
def test_eight_devices_equal_one(x64):
  """The reversed order of the batch crosses all of them."""
  toy.same_on_eight_devices(un_mix(make('moco', norm=True)))
