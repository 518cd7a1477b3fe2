"""What every method must keep to. Methods are found by name; a new file is tested unasked."""

import contextlib
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import Mesh

from clr_jax import augment, methods, models, optim
from clr_jax.core.types import Batch, RunInfo
from clr_jax.experiment.train_step import init_state, make_train_step
from clr_jax.ops import sharding
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.wrappers.online_probe import online_probe

NAMES = methods.names()
BATCH, EXAMPLES, CLASSES, SIDE = 16, 51, 4, 8  # 51 examples: no device count divides them
INFO = RunInfo(
  num_examples=EXAMPLES,
  num_classes=CLASSES,
  batch_size=BATCH,
  num_views=2,
  steps_per_epoch=EXAMPLES // BATCH,
  total_steps=60,
)

# What the defaults cannot do here: chunks longer than the batch, queues longer than the data,
# momenta for thousands of steps.
# The fast suite tests FAST whole; the others' tests that compile a program are slow ones:
# `pytest -m '' -k NAME` runs all of a method. SKELETONS has one method of each.
SKELETONS = ('simclr', 'sogclr', 'supervised', 'byol', 'moco')
FAST = ('sogclr', 'byol', 'moco')
MOST_DIFFERENT = ('sogclr', 'byol')  # for what takes several programs, or a training


def marks(name, *, slow=False):
  """A method's tests run in one worker, which compiles its step once."""
  return [pytest.mark.xdist_group(name), *[pytest.mark.slow] * slow]


ALL = [pytest.param(name, marks=marks(name)) for name in NAMES]
SOME = [pytest.param(name, marks=marks(name, slow=name not in FAST)) for name in NAMES]
FEW = [pytest.param(name, marks=marks(name, slow=name not in MOST_DIFFERENT)) for name in NAMES]

SMALL_HEAD = {'hidden_dim': 32, 'out_dim': 16}
SMALL_PREDICTOR = {**SMALL_HEAD, 'predictor_dim': 32}
SMALL = {
  'arb': {'groups': 2, **SMALL_HEAD},
  'barlow_twins': SMALL_HEAD,
  'byol': {'momentum': 0.9, **SMALL_PREDICTOR},
  'dino': {
    'num_prototypes': 32,
    'freeze_last_layer': 0,
    'warmup_teacher_epochs': 2,
    'momentum': 0.9,
    **SMALL_HEAD,
  },
  'dynamic_moco': {'queue_length': 40, 'momentum': 0.9, **SMALL_HEAD},
  'infomin': {'queue_length': 40, 'momentum': 0.9, 'out_dim': 16},
  'moco': {'queue_length': 40, 'momentum': 0.9, 'out_dim': 16},
  'moco_v2plus': {'queue_length': 40, 'momentum': 0.9, **SMALL_HEAD},
  'moco_v3': {'momentum': 0.9, **SMALL_PREDICTOR},
  'nnclr': {'queue_length': 40, **SMALL_PREDICTOR},
  'real': {'retrieval': 'radius', 'queue_length': 40, 'momentum': 0.9, **SMALL_HEAD},
  'ressl': {'queue_length': 40, 'momentum': 0.9, **SMALL_HEAD},
  'simsiam': SMALL_PREDICTOR,
  'swav': {
    'num_prototypes': 12,
    'freeze_prototypes_steps': 0,
    'queue_length': 32,
    'queue_start_epoch': 0,
    **SMALL_HEAD,
  },
  'tico': {'momentum': 0.9, **SMALL_HEAD},
  # The published weights, over 25: they are made for LARS, which does not see a loss's scale.
  'vicreg': {
    'invariance_weight': 1.0,
    'variance_weight': 1.0,
    'covariance_weight': 0.04,
    **SMALL_HEAD,
  },
  'w_mse': {'whitening_size': 16, 'hidden_dim': 32, 'out_dim': 4},
}


def toy_images(rng, label):
  """Class = position of a bright bar; noise on top. uint8 [n, SIDE, SIDE, 1]."""
  images = rng.integers(0, 90, [len(label), SIDE, SIDE, 1])
  for image, c in zip(images, label, strict=True):
    image[2 * c : 2 * c + 2] += 150
  return images.astype(np.uint8)


def toy_views(key, images):
  """Two views with noise and a random brightness; in the dtype of the run."""
  dtype = jnp.result_type(float)
  x = images.astype(dtype)[:, None] / 255
  shape = (len(images), 2, *images.shape[1:])
  noise_key, scale_key = jax.random.split(key)
  scale = jax.random.uniform(scale_key, [len(images), 2, 1, 1, 1], dtype, 0.6, 1.0)
  noise = 0.1 * jax.random.normal(noise_key, shape, dtype)
  return {'global': jnp.clip(jnp.broadcast_to(x, shape) * scale + noise, 0, 1)}


def toy_views_and_patches(key, images):
  """`toy_views`, and shuffled windows of the quarters of a third one."""
  third_key, jigsaw_key = jax.random.split(jax.random.fold_in(key, 1))
  third = toy_views(third_key, images)['global'][:, 0]
  patches = augment.random_jigsaw(jigsaw_key, third, grid=2, size=SIDE // 2 - 1)
  return {**toy_views(key, images), 'jigsaw': patches}


VIEWS = {'infomin': toy_views_and_patches}


def toy_batch(step):
  rng = np.random.default_rng(step)
  index = rng.permutation(EXAMPLES)[:BATCH].astype(np.int32)
  label = (index % CLASSES).astype(np.int32)
  return Batch(toy_images(rng, label), label, index)


def make(name, *, dtype=jnp.float32, sam=None, mesh=None, learning_rate=0.05):
  """(init(key) -> state, step) of a tiny network."""
  backbone = models.make('resnet_tiny', width=4, dtype=dtype)
  method = online_probe(methods.factory(name)(backbone, INFO, **SMALL.get(name, {})), INFO)
  batch, views = toy_batch(0), VIEWS.get(name, toy_views)
  tx = optim.make('sgd', method.groups, learning_rate=learning_rate, sam=sam)
  init = functools.partial(init_state, batch=batch, method=method, views=views, tx=tx)
  return method, init, make_train_step(method, views, tx, mesh=mesh)


@functools.cache
def compiled(name):
  """Float32 on one device, jitted once for the tests that need no other variant."""
  method, init, step = make(name)
  return method, jax.jit(init)(jax.random.key(1)), jax.jit(step)


@pytest.mark.parametrize('name', ALL)
def test_hyper_parameters_are_keyword_only(name):
  parameters = list(inspect.signature(methods.factory(name)).parameters.values())
  assert [p.name for p in parameters[:2]] == ['backbone', 'info']
  for p in parameters[2:]:
    assert p.kind is p.KEYWORD_ONLY and p.default is not p.empty, p.name
  assert methods.summary(name)


@pytest.mark.parametrize('name', SOME)
def test_one_compilation_and_a_stable_state(name):
  _, state, step = compiled(name)
  before = jax.tree.map(lambda x: (x.shape, x.dtype), state)
  state, metrics = step(state, toy_batch(0))
  with no_compilation():
    for i in range(1, 3):
      state, metrics = step(state, toy_batch(i))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == before
  assert int(state.step) == 3
  for key in ('loss', 'update_norm', 'feature_std', 'probe_top1'):
    assert np.isfinite(metrics[key]) and np.shape(metrics[key]) == (), key


@pytest.mark.parametrize('name', SOME)
def test_every_parameter_learns(name):
  _, state, step = compiled(name)
  old = jax.device_get(state.params)
  for i in range(2):  # a projector without bias may start at an exactly zero gradient
    state, _ = step(state, toy_batch(i))
  old, new = (traverse_util.flatten_dict(x, sep='/') for x in (old, state.params))

  def before_norm(path):  # BatchNorm subtracts such a bias: its gradient is 0 but for rounding
    head, _, rest = path.rpartition('/linear')
    norm = f'{head}/norm{rest[:1]}/'
    if head == 'projector' and f'{head}/linear{int(rest[0]) + 1}/kernel' not in new:
      norm = 'predictor/norm0/'  # of a linear layer of the output
    return rest.endswith('/bias') and any(k.startswith(norm) for k in new)

  stuck = [k for k, v in new.items() if (old[k] == np.asarray(v)).all() and not before_norm(k)]
  assert not stuck


@pytest.mark.parametrize('name', SOME)
def test_represent_is_inference(name):
  """Deterministic, and an image's feature does not depend on the other images."""
  method, state, step = compiled(name)
  state, _ = step(state, toy_batch(0))
  images = toy_batch(1).image.astype(np.float32) / 255
  represent = jax.jit(method.represent)
  whole = represent(state.params, state.state, images)
  assert {'h', 'z', 'probe_logits'} <= set(whole)
  part = represent(state.params, state.state, np.repeat(images[:2], 8, 0))
  for key, value in whole.items():
    assert value.dtype == jnp.float32 and len(value) == BATCH
    np.testing.assert_allclose(part[key][0], value[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(represent(state.params, state.state, images)[key], value)


@pytest.mark.parametrize('name', FEW)
def test_finite_in_bfloat16(name):
  _, init, step = make(name, dtype=jnp.bfloat16)
  state, step = jax.jit(init)(jax.random.key(0)), jax.jit(step)
  for i in range(2):
    state, metrics = step(state, toy_batch(i))
  assert all(np.isfinite(v) for v in metrics.values())
  for leaf in jax.tree.leaves((state.params, state.state)):
    assert leaf.dtype != jnp.bfloat16
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


@pytest.mark.parametrize('name', FEW)
def test_a_restored_checkpoint_continues_to_the_bit(name, tmp_path):
  """All that a method carries is in the checkpoint; real kills of whole runs: test_survival.py."""
  _, state, step = compiled(name)
  for i in range(2):
    state, _ = step(state, toy_batch(i))
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, state)
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(jax.eval_shape(lambda: state))
  results = []
  for start in (state, restored):
    for i in range(2, 5):
      start, metrics = step(start, toy_batch(i))
    bits = jax.device_get(start.replace(key=jax.random.key_data(start.key)))
    results.append((bits, jax.device_get(metrics)))
  jax.tree.map(np.testing.assert_array_equal, *results)


@contextlib.contextmanager
def no_compilation():
  """Fails if XLA compiles anything inside."""
  compiled_programs = []

  def listen(event, seconds, **kwargs):
    del seconds, kwargs
    if event == '/jax/core/compile/backend_compile_duration':
      compiled_programs.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert not compiled_programs, f'{len(compiled_programs)} more compilations'


def run_on(devices, name, sam, steps=3):
  """State and metrics after some float64 steps on a mesh of `devices`."""
  mesh = Mesh(np.asarray(devices), (sharding.AXIS,))
  _, init, step = make(name, dtype=None, sam=sam, mesh=mesh)
  init = jax.jit(init)

  def wide(x):
    return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

  state = jax.tree.map(wide, init(jax.random.key(0)))
  shardings = sharding.train_state_shardings(mesh, state)
  state = jax.device_put(state, shardings)
  step = jax.jit(step, out_shardings=(shardings, None))
  history = []
  for i in range(steps):
    batch = jax.device_put(toy_batch(i), sharding.by_rows(mesh))
    with no_compilation() if i else contextlib.nullcontext():
      state, metrics = step(state, batch)
    history.append(jax.device_get(metrics))
  return jax.device_get(state.replace(key=jax.random.key_data(state.key))), history


def test_no_compilation_sees_a_compilation():
  double = jax.jit(lambda x: 2 * x)
  double(np.ones(3))
  with no_compilation():
    double(np.zeros(3))
  with pytest.raises(AssertionError, match='1 more compilation'), no_compilation():
    double(np.ones(4))


# SAM's second gradient is the same code for all methods: one of each skeleton has it.
DEVICE_CASES = [
  pytest.param(name, sam, id=f'{name}-{kind}', marks=marks(name, slow=slow))
  for name in NAMES
  for kind, sam, slow in (
    ('sgd', None, name != 'byol'),
    ('sam', {'rho': 0.05}, name != 'sogclr'),
  )
  if sam is None or name in SKELETONS
]


@pytest.mark.parametrize('name, sam', DEVICE_CASES)
def test_eight_devices_equal_one(name, sam, x64):
  state1, history1 = run_on(jax.devices()[:1], name, sam)
  state8, history8 = run_on(jax.devices(), name, sam)
  for one, eight in zip(history1, history8, strict=True):
    for key in one:
      np.testing.assert_allclose(eight[key], one[key], rtol=1e-9, atol=1e-12, err_msg=key)

  def close(path, a, b):
    np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9, err_msg=jax.tree_util.keystr(path))

  jax.tree_util.tree_map_with_path(close, state1, state8)


@pytest.mark.parametrize('name', FEW)
def test_class_signal_rises(name):
  """kNN accuracy on the toy classes, from features of clean images, beats the untrained one."""
  method, init, step = make(name, learning_rate=0.1)
  state = start = jax.jit(init)(jax.random.key(2))
  step = jax.jit(step)
  for i in range(60):
    state, metrics = step(state, toy_batch(100 + i))
  rng = np.random.default_rng(7)
  label = np.arange(96) % CLASSES
  images = toy_images(rng, label).astype(np.float32) / 255
  represent = jax.jit(method.represent)

  def neighbour_agreement(state):
    h = np.asarray(represent(state.params, state.state, images)['h'])
    h = h / np.linalg.norm(h, axis=1, keepdims=True)
    scores = h @ h.T - 2 * np.eye(len(h))
    return (label[np.argsort(-scores, 1)[:, :10]] == label[:, None]).mean()

  assert neighbour_agreement(state) > max(neighbour_agreement(start) + 0.05, 0.7)
  assert metrics['feature_std'] > 0.05
