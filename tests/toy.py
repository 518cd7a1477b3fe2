"""Toy images, networks and training, for tests of whatever is put around or into a method."""

import contextlib
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clr_jax import augment, methods, optim
from clr_jax.core.types import Batch, Method, RunInfo
from clr_jax.experiment.train_step import init_state, make_train_step
from clr_jax.models.norm import BatchNorm
from clr_jax.ops import sharding
from tests import method_cases

BATCH, EXAMPLES, CLASSES, SIDE = 16, 51, 4, 8  # 51 examples: no device count divides them
INFO = RunInfo(
  num_examples=EXAMPLES,
  num_classes=CLASSES,
  batch_size=BATCH,
  num_views=2,
  steps_per_epoch=EXAMPLES // BATCH,
  total_steps=60,
)


# ---------------------------------------------------------------- images
def images(rng, label):
  """Class = position of a bright bar; noise on top. uint8 [n, SIDE, SIDE, 1]."""
  drawn = rng.integers(0, 90, [len(label), SIDE, SIDE, 1])
  for image, c in zip(drawn, label, strict=True):
    image[2 * c : 2 * c + 2] += 150
  return drawn.astype(np.uint8)


def views(key, images):
  """Two views with noise and a random brightness; in the dtype of the run."""
  dtype = jnp.result_type(float)
  x = images.astype(dtype)[:, None] / 255
  shape = (len(images), 2, *images.shape[1:])
  noise_key, scale_key = jax.random.split(key)
  scale = jax.random.uniform(scale_key, [len(images), 2, 1, 1, 1], dtype, 0.6, 1.0)
  noise = 0.1 * jax.random.normal(noise_key, shape, dtype)
  return {'global': jnp.clip(jnp.broadcast_to(x, shape) * scale + noise, 0, 1)}


def views_and_patches(key, images):
  """`views`, and shuffled windows of the quarters of a third one."""
  third_key, jigsaw_key = jax.random.split(jax.random.fold_in(key, 1))
  third = views(third_key, images)['global'][:, 0]
  patches = augment.random_jigsaw(jigsaw_key, third, grid=2, size=SIDE // 2 - 1)
  return {**views(key, images), 'jigsaw': patches}


def views_for(name):
  """The views that the method called `name` trains on."""
  return views_and_patches if name == 'infomin' else views


def batch(step):
  """The batch of a step, without views."""
  rng = np.random.default_rng(step)
  index = rng.permutation(EXAMPLES)[:BATCH].astype(np.int32)
  label = (index % CLASSES).astype(np.int32)
  return Batch(images(rng, label), label, index)


def viewed(name='simclr', key=0):
  """The batch of step 0 as a method sees it: with views, without images."""
  first = jax.tree.map(jnp.asarray, batch(0))
  return first._replace(views=views_for(name)(jax.random.key(key), first.image), image=None)


# ---------------------------------------------------------------- networks
class Tiny(nn.Module):
  """One layer of nine pixels from all over the image, with BatchNorm if asked for."""

  num_features: int = 5
  norm: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, groups=1):
    x = x[:, :: x.shape[1] // 3, :: x.shape[2] // 3][:, :3, :3]
    x = nn.Dense(self.num_features, not self.norm, self.dtype)(x.reshape(len(x), -1))
    return BatchNorm()(x, train=train, groups=groups) if self.norm else x


class Staged(nn.Module):
  """Two layers that leave their outputs as stages."""

  num_features: int = 5

  @nn.compact
  def __call__(self, x, *, train, groups=1):
    x = x.reshape(len(x), -1)
    for k in (1, 2):
      x = nn.tanh(nn.Dense(self.num_features, name=f'linear{k}')(x))
      if self.is_mutable_collection('stages') and not self.is_initializing():
        self.put_variable('stages', f'stage{k}', x)
    return x


def method(name, backbone=None, **options) -> Method:
  """The method called `name`, small, around `Tiny` with BatchNorm or another backbone."""
  backbone = Tiny(norm=True) if backbone is None else backbone
  return methods.factory(name)(backbone, INFO, **{**method_cases.options(name), **options})


# ---------------------------------------------------------------- training
def optimizer(method, name='sgd', **options):
  """SGD, or another optimizer, with the method's parameter groups."""
  return optim.make(name, method.groups, **{'learning_rate': 0.1, **options})


def training(method, views=views, *, mesh=None, **options):
  """(init(key) -> state, step(state, batch) -> (state, metrics)); options: of the optimizer."""
  tx = optimizer(method, **options)
  init = functools.partial(init_state, batch=batch(0), method=method, views=views, tx=tx)
  return init, make_train_step(method, views, tx, mesh=mesh)


def wide(tree):
  """Floats in float64."""

  def cast(x):
    return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

  return jax.tree.map(cast, tree)


def on_host(state):
  """A train state of NumPy arrays, the key as its numbers."""
  return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


class Trained(NamedTuple):
  """A train state on the host, the metrics of each step, and the text of the compiled step."""

  state: Any
  metrics: list
  text: str


def train_on(devices, method, views, state, steps=3, **options) -> Trained:
  """Some steps on a mesh of `devices`, all by one program."""
  mesh = sharding.make_mesh(devices)
  shardings = sharding.train_state_shardings(mesh, state)
  state = jax.device_put(state, shardings)
  _, step = training(method, views, mesh=mesh, **options)
  first = jax.device_put(batch(0), sharding.by_rows(mesh))
  step = jax.jit(step, out_shardings=(shardings, None)).lower(state, first).compile()
  metrics = []
  for i in range(steps):
    state, row = step(state, jax.device_put(batch(i), sharding.by_rows(mesh)))
    metrics.append(jax.device_get(row))
  return Trained(on_host(state), metrics, step.as_text())


def same_on_eight_devices(method, views=views, **options) -> Trained:
  """In float64, asserts that eight devices train what one does; returns what the eight did."""
  init, _ = training(method, views, **options)
  state = wide(jax.jit(init)(jax.random.key(0)))
  one = train_on(jax.devices()[:1], method, views, state, **options)
  eight = train_on(jax.devices(), method, views, state, **options)
  for expected, found in zip(one.metrics, eight.metrics, strict=True):
    for key in expected:
      np.testing.assert_allclose(found[key], expected[key], rtol=1e-9, atol=1e-12, err_msg=key)

  def close(path, a, b):
    np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9, err_msg=jax.tree_util.keystr(path))

  jax.tree_util.tree_map_with_path(close, one.state, eight.state)
  return eight


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
