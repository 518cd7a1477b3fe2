"""Contract of every method. Methods are found by name, so a new file is tested automatically.

The network is one layer (`toy.Tiny`); SimCLR is tested with convolutions, too. The step of each
method is compiled once for the tests in float32, and on one and on eight devices in float64.
"""

import functools
import inspect

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from clr_jax import methods, models
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.wrappers.online_probe import online_probe
from tests import toy
from tests.method_cases import NAMES, SKELETONS
from tests.methods import traffic

# The fast suite tests FAST whole; the tests of the others that compile a program are slow ones:
# `pytest -m '' -k NAME` runs all of a method.
FAST = ('sogclr', 'byol', 'moco')
CONVOLUTIONS = 'simclr of convolutions'
# A backbone without batch statistics, of 4,000 parameters, with the optimizer of transformers.
TRANSFORMERS = {f'{name} of a transformer': name for name in NAMES}
ADAM = {'name': 'adamw', 'learning_rate': 3e-3}


def marks(name, *, slow=False, weekly=False):
  """A method's tests run in one worker, which compiles its step once."""
  how_often = [pytest.mark.weekly] if weekly else [pytest.mark.slow] * slow
  return [pytest.mark.xdist_group(name), *how_often]


ALL = [pytest.param(name, marks=marks(name)) for name in NAMES]
SOME = [
  pytest.param(name, marks=marks(name, slow=name not in FAST)) for name in (*NAMES, CONVOLUTIONS)
]
WITH_TRANSFORMERS = SOME + [
  pytest.param(name, marks=marks(name, slow=True, weekly=not name.startswith('sogclr')))
  for name in TRANSFORMERS
]


def make(name, **backbone):
  """(method with a probe, its views), small."""
  network = toy.Tiny(norm=True, **backbone)
  if name == CONVOLUTIONS:
    name, network = 'simclr', models.make('resnet_tiny', width=4, **backbone)
  if name in TRANSFORMERS:
    name = TRANSFORMERS[name]
    options = {'width': 16, 'depth': 2, 'heads': 2, 'mlp_ratio': 2, 'drop_path': 0.1}
    # A deviation of .02 is made for hundreds of channels: 16 of them learn little in 60 steps.
    options |= {'positions': 'sine_cosine', 'weight_init': 'xavier_uniform'}
    options['patch'] = 1 if name == 'infomin' else 2  # whose jigsaw has windows of 3 x 3 pixels
    network = models.make('vit_tiny', **options, **backbone)
  method = online_probe(toy.method(name, network), toy.INFO)
  return method, toy.views_for(name)


@functools.cache
def compiled(name):
  """(method, state of step 0, step): float32 on one device."""
  method, views = make(name)
  init, step = toy.training(method, views, **(ADAM if name in TRANSFORMERS else {}))
  return method, jax.jit(init)(jax.random.key(2)), jax.jit(step)


@pytest.mark.parametrize('name', ALL)
def test_hyper_parameters_are_keyword_only(name):
  parameters = list(inspect.signature(methods.factory(name)).parameters.values())
  assert [p.name for p in parameters[:2]] == ['backbone', 'info']
  for p in parameters[2:]:
    assert p.kind is p.KEYWORD_ONLY and p.default is not p.empty, p.name
  assert methods.summary(name)


@pytest.mark.parametrize('name', WITH_TRANSFORMERS)
def test_one_compilation_and_a_stable_state(name):
  _, state, step = compiled(name)
  before = jax.tree.map(lambda x: (x.shape, x.dtype), state)
  state, metrics = step(state, toy.batch(0))
  with toy.no_compilation():
    for i in range(1, 3):
      state, metrics = step(state, toy.batch(i))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == before
  assert int(state.step) == 3
  for key in ('loss', 'update_norm', 'feature_std', 'probe_top1'):
    assert np.isfinite(metrics[key]) and np.shape(metrics[key]) == (), key


@pytest.mark.parametrize('name', WITH_TRANSFORMERS)
def test_every_parameter_learns(name):
  _, state, step = compiled(name)
  old = jax.device_get(state.params)
  for i in range(2):  # a projector without bias may start at an exactly zero gradient
    state, _ = step(state, toy.batch(i))
  old, new = (traverse_util.flatten_dict(x, sep='/') for x in (old, state.params))

  def before_norm(path):  # BatchNorm subtracts such a bias: its gradient is 0 but for rounding
    head, _, rest = path.rpartition('/linear')
    norm = f'{head}/norm{rest[:1]}/'
    if head == 'projector' and f'{head}/linear{int(rest[0]) + 1}/kernel' not in new:
      norm = 'predictor/norm0/'  # of a linear layer of the output
    return rest.endswith('/bias') and any(k.startswith(norm) for k in new)

  stuck = [k for k, v in new.items() if (old[k] == np.asarray(v)).all() and not before_norm(k)]
  assert not stuck


@pytest.mark.parametrize('name', WITH_TRANSFORMERS)
def test_represent_is_inference(name):
  """Deterministic, and an image's feature does not depend on the other images."""
  method, state, step = compiled(name)
  state, _ = step(state, toy.batch(0))
  images = toy.batch(1).image.astype(np.float32) / 255
  represent = jax.jit(method.represent)
  whole = represent(state.params, state.state, images)
  assert {'h', 'z', 'probe_logits'} <= set(whole)
  part = represent(state.params, state.state, np.repeat(images[:2], 8, 0))
  for key, value in whole.items():
    assert value.dtype == jnp.float32 and len(value) == toy.BATCH
    np.testing.assert_allclose(part[key][0], value[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(represent(state.params, state.state, images)[key], value)


@pytest.mark.parametrize('name', WITH_TRANSFORMERS)
def test_a_restored_checkpoint_continues_to_the_bit(name, tmp_path):
  """All that a method carries is in the checkpoint; real kills of whole runs: test_survival.py."""
  _, state, step = compiled(name)
  for i in range(2):
    state, _ = step(state, toy.batch(i))
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, state)
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(jax.eval_shape(lambda: state))
  results = []
  for start in (state, restored):
    for i in range(2, 5):
      start, metrics = step(start, toy.batch(i))
    results.append((toy.on_host(start), jax.device_get(metrics)))
  jax.tree.map(np.testing.assert_array_equal, *results)


# The untrained transformer of `infomin` is at 0.99, the others' at 0.83: after 60 steps that of
# `moco_v2plus` is below (0.70), those of `simsiam` and `swav` hardly above (0.83, 0.85).
TOO_FEW_STEPS = {f'{n} of a transformer' for n in ('infomin', 'moco_v2plus', 'simsiam', 'swav')}


@pytest.mark.parametrize(
  'name', [case for case in WITH_TRANSFORMERS if case.values[0] not in TOO_FEW_STEPS]
)
def test_class_signal_rises(name):
  """kNN accuracy on the toy classes, from features of clean images, beats the untrained one."""
  method, start, step = compiled(name)
  state = start
  for i in range(60):
    state, metrics = step(state, toy.batch(100 + i))
  rng = np.random.default_rng(7)
  label = np.arange(96) % toy.CLASSES
  images = toy.images(rng, label).astype(np.float32) / 255
  represent = jax.jit(method.represent)

  def neighbor_agreement(state):
    h = np.asarray(represent(state.params, state.state, images)['h'])
    h = h / np.linalg.norm(h, axis=1, keepdims=True)
    scores = h @ h.T - 2 * np.eye(len(h))
    return (label[np.argsort(-scores, 1)[:, :10]] == label[:, None]).mean()

  assert neighbor_agreement(state) > max(neighbor_agreement(start) + 0.05, 0.7)
  assert metrics['feature_std'] > 0.05


# ---------------------------------------------------------------- bfloat16
# In seven bits of mantissa these lose a loss; products, which accumulate in float32, do not.
ARITHMETIC = {'add', 'add_any', 'sub', 'mul', 'div', 'exp', 'log', 'log1p', 'max', 'sqrt', 'rsqrt'}
ARITHMETIC |= {'integer_pow', 'pow', 'logistic', 'tanh', 'cumsum', 'reduce_sum', 'reduce_max'}


def equations(jaxpr):
  """Equations of a jaxpr and of all jaxprs inside of it."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
      if is_jaxpr(inner):
        yield from equations(getattr(inner, 'jaxpr', inner))


def is_jaxpr(x):
  return isinstance(x, jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr)


@pytest.mark.parametrize('name', WITH_TRANSFORMERS)
def test_bfloat16_stays_in_the_backbone(name):
  """Losses, statistics, tables and parameters are float32."""
  method, views = make(name, dtype=jnp.bfloat16)
  init, step = toy.training(method, views)
  state = jax.eval_shape(init, jax.random.key(0))
  jaxpr, (after, metrics) = jax.make_jaxpr(step, return_shape=True)(state, toy.batch(0))
  assert not [x for x in jax.tree.leaves((after, metrics)) if x.dtype == jnp.bfloat16]
  narrow = {
    equation.primitive.name
    for equation in equations(jaxpr.jaxpr)
    if any(x.aval.dtype == jnp.bfloat16 for x in equation.invars)
  }
  if name == CONVOLUTIONS:  # which add their shortcuts
    assert 'conv_general_dilated' in narrow
  elif name in TRANSFORMERS:  # GELU's derivative is an exp; softmax and norms are wide
    assert 'dot_general' in narrow and not narrow & {'log', 'sqrt', 'rsqrt', 'reduce_max'}
  else:
    assert 'dot_general' in narrow and not narrow & ARITHMETIC


@pytest.mark.parametrize(
  'name',
  [pytest.param(n, marks=marks(n, slow=n != 'sogclr')) for n in (*SKELETONS, CONVOLUTIONS)]
  + [pytest.param(f'{n} of a transformer', marks=marks(n, weekly=True)) for n in SKELETONS],
)
def test_finite_in_bfloat16(name):
  method, views = make(name, dtype=jnp.bfloat16)
  init, step = toy.training(method, views)
  state, step = jax.jit(init)(jax.random.key(0)), jax.jit(step)
  for i in range(2):
    state, metrics = step(state, toy.batch(i))
  assert all(np.isfinite(v) for v in metrics.values())
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


# ---------------------------------------------------------------- devices
def test_no_compilation_sees_a_compilation():
  double = jax.jit(lambda x: 2 * x)
  double(np.ones(3))
  with toy.no_compilation():
    double(np.zeros(3))
  with pytest.raises(AssertionError, match='1 more compilation'), toy.no_compilation():
    double(np.ones(4))


# The others' losses go over the batch as that of one of these does: they are weekly tests.
DEVICES = (*SKELETONS, 'arb', 'dino', 'infomin', 'nnclr', 'real', 'vicreg', 'w_mse', CONVOLUTIONS)
# SAM's second gradient is the same code for all methods: one of each kind has it, once a week.
DEVICE_CASES = [
  pytest.param(name, sam, id=f'{name}-{kind}', marks=marks(name, slow=slow, weekly=weekly))
  for name in (*NAMES, CONVOLUTIONS, *(f'{n} of a transformer' for n in SKELETONS))
  for kind, sam, slow, weekly in (
    ('sgd', None, name != 'sogclr', name not in DEVICES),
    ('sam', {'rho': 0.05}, True, name != 'sogclr'),
  )
  if sam is None or name in SKELETONS
]


@pytest.mark.parametrize('name, sam', DEVICE_CASES)
def test_eight_devices_equal_one(name, sam, x64):
  """Numbers, and what the eight send to each other: no images, and nothing to the host."""
  method, views = make(name)
  text = toy.same_on_eight_devices(method, views, sam=sam).text
  traffic.check(text, pixels=toy.BATCH * 2 * toy.SIDE**2)
