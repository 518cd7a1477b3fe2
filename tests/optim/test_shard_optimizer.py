"""Optimizer state split over the devices: the same training with less memory for each."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from clr_jax import optim
from clr_jax.core.config_tree import changed
from clr_jax.core.storage import atomic_write
from clr_jax.core.types import Batch, Group, Method, Out
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.experiment.train_step import init_state, make_train_step
from clr_jax.ops import sharding
from clr_jax.rundir import checkpoint, workdir
from clr_jax.rundir.identity import open_run
from clr_jax.training.dispatch import make_dispatch

WIDTH, BATCH = 16, 16
GROUPS = {'head': Group(freeze_steps=1, no_sam=True)}


def two_layers():
  """Regression by a network without convolutions, so that compiling takes no time."""

  def init(rng, batch):
    features = batch.views['global'].shape[-1]
    keys = jax.random.split(rng)
    body = {
      'kernel': 0.1 * jax.random.normal(keys[0], [features, WIDTH]),
      'bias': jnp.full([WIDTH], 0.1),
      'odd': jnp.full([3, 5], 0.1),
    }
    return {'body': body, 'head': {'kernel': 0.3 * jax.random.normal(keys[1], [WIDTH, 8])}}, {}

  def embed(params, state, batch, rng, step):
    del state, rng, step
    body, x = params['body'], batch.views['global']
    h = jnp.tanh(x @ body['kernel'] + body['bias'][None]) * body['odd'].sum()
    return Out(online=h @ params['head']['kernel'], h=h), {}

  def loss(out, state, batch, rng, step):
    del state, rng, step
    value = jnp.square(out.online - batch.label[:, None]).mean()
    return value, {}, {}

  return Method(
    name='two_layers',
    init=init,
    embed=embed,
    loss=loss,
    post_update=lambda params, state, carry, step: (params, state),
    represent=lambda params, state, images: {'h': images},
    pairs='own',
    groups=GROUPS,
  )


def views(key, images):
  noise = jax.random.normal(key, images.shape, jnp.result_type(float))
  return {'global': images.astype(noise.dtype) / 255 + 0.1 * noise}


def batch(step):
  rng = np.random.default_rng(step)
  image = rng.integers(0, 256, [BATCH, 24], np.uint8)
  return Batch(image, rng.normal(size=BATCH), np.arange(BATCH, dtype=np.int32))


def start(devices, shard, options):
  """(state, step, shardings, mesh) on so many devices."""
  mesh, method = sharding.make_mesh(jax.devices()[:devices]), two_layers()
  options = {'learning_rate': 0.005, 'weight_decay': 1e-3, **options}
  tx = optim.make(options.pop('name'), GROUPS, **options)
  init = functools.partial(init_state, batch=batch(0), method=method, views=views, tx=tx)
  wide = jax.jit(
    lambda key: jax.tree.map(
      lambda x: x.astype(jnp.result_type(float)) if jnp.issubdtype(x.dtype, jnp.floating) else x,
      init(key),
    )
  )
  state = wide(jax.random.key(0))
  shardings = sharding.train_state_shardings(mesh, state, shard_optimizer=shard)
  state = jax.device_put(state, shardings)
  step = make_train_step(method, views, tx, mesh=mesh, shard_optimizer=shard)
  return state, step, shardings, mesh


def compile_step(state, step, shardings, mesh):
  step = jax.jit(step, out_shardings=(shardings, None))
  return step.lower(state, jax.device_put(batch(0), sharding.by_rows(mesh))).compile()


def numbers(state):
  return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def run(devices, shard, options, steps=3):
  state, step, shardings, mesh = start(devices, shard, options)
  step = compile_step(state, step, shardings, mesh)
  for i in range(steps):
    state, metrics = step(state, jax.device_put(batch(i), sharding.by_rows(mesh)))
  return state, metrics


def test_axis_of_every_shape():
  mesh = sharding.make_mesh(jax.devices()[:4])
  shapes = {
    (3, 3, 16, 32): PartitionSpec(None, None, None, 'data'),
    (3, 3, 32, 16): PartitionSpec(None, None, 'data'),
    (8, 8): PartitionSpec('data'),
    (9, 8): PartitionSpec(None, 'data'),
    (12,): PartitionSpec('data'),
    (3, 5): PartitionSpec(),
    (0, 3): PartitionSpec(),
    (): PartitionSpec(),
  }
  leaves = [jax.ShapeDtypeStruct(shape, 'float32') for shape in shapes]
  found = [s.spec for s in sharding.by_largest_axis(mesh, leaves)]
  assert found == list(shapes.values())


OPTIMIZERS = {
  'sgd': {'name': 'sgd', 'nesterov': True},
  'adamw': {'name': 'adamw'},
  'lars': {'name': 'lars'},
  'lars clipped': {'name': 'lars', 'form': 'clipped'},
  'sam': {'name': 'sgd', 'sam': {'rho': 0.3}},
  'adaptive sam of lars': {'name': 'lars', 'sam': {'rho': 0.3, 'adaptive': True}},
  'noise_sam': {'name': 'adam', 'sam': {'name': 'noise_sam', 'eps': 0.1}},
}
# Moments of each number; norms of each parameter and of all; the others are made of the same.
OFTEN = {'adamw': [], 'sam': [pytest.mark.slow], 'adaptive sam of lars': [pytest.mark.slow]}


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=OFTEN.get(n, [pytest.mark.weekly])) for n in OPTIMIZERS]
)
def test_equals_the_replicated_state(x64, name):
  """Norms over all parameters (SAM) and of each (LARS) cross the parts."""
  split, split_metrics = run(8, True, OPTIMIZERS[name])
  kernels = [x for x in jax.tree.leaves(split.opt_state) if x.shape == (24, WIDTH)]
  assert {s.data.shape for k in kernels for s in k.addressable_shards} == {(3, WIDTH)}
  assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(split.params))
  expected, metrics = run(1, False, OPTIMIZERS[name])

  def close(path, a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=jax.tree_util.keystr(path))

  pairs = (numbers(split), split_metrics), (numbers(expected), metrics)
  jax.tree_util.tree_map_with_path(close, *pairs)
  assert 0 < metrics['update_norm'] < 10


@pytest.mark.slow
def test_stays_split_in_a_dispatch_of_many_steps():
  """As on GPUs and TPUs, where the steps of a dispatch are a loop."""
  state, step, shardings, mesh = start(8, True, OPTIMIZERS['adamw'])
  rows = NamedSharding(mesh, PartitionSpec(None, sharding.AXIS))
  batches = jax.device_put(jax.tree.map(lambda *x: np.stack(x), *map(batch, range(3))), rows)
  loop = jax.jit(lambda *args: jax.lax.scan(step, *args), out_shardings=(shardings, None))
  compiled = loop.lower(state, batches).compile()
  loops = re.findall(r'= (\(.*) while\(', compiled.as_text())
  carried = max(loops, key=len)  # random numbers have loops too
  # The two moments of the kernel, and perhaps the kernel itself.
  assert carried.count(f'f32[3,{WIDTH}]') >= 2 and carried.count(f'f32[24,{WIDTH}]') <= 1
  together, _ = compiled(state, batches)
  apart, _ = run(8, True, OPTIMIZERS['adamw'])
  for a, b in zip(jax.tree.leaves(numbers(together)), jax.tree.leaves(numbers(apart)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_arguments_of_the_program_shrink():
  options = {'name': 'adam'}
  split, whole = (start(8, shard, options) for shard in (True, False))
  state = split[0]
  saved = sum(x.nbytes - x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
  analyses = [compile_step(*made).memory_analysis() for made in (whole, split)]
  sizes = [a.argument_size_in_bytes for a in analyses]
  parameters = (24 + 1) * WIDTH + WIDTH * 8  # of those that 8 devices divide
  assert sizes[0] - sizes[1] == saved == 2 * 4 * parameters * 7 / 8


@pytest.mark.slow
def test_restored_split_otherwise_or_whole(tmp_path):
  state, _ = run(8, True, OPTIMIZERS['adamw'], steps=1)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.save(1, state)
    for devices, shard in ((2, True), (4, False), (8, True)):
      mesh = sharding.make_mesh(jax.devices()[:devices])
      shardings = sharding.train_state_shardings(mesh, state, shard_optimizer=shard)
      restored = checkpoints.restore(
        jax.tree.map(
          lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
        )
      )
      jax.tree.map(np.testing.assert_array_equal, numbers(restored), numbers(state))
      placed = jax.tree.map(
        lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), restored, shardings
      )
      assert all(jax.tree.leaves(placed))


@pytest.fixture
def tiny(request):
  return load(str(request.config.rootpath / 'tests' / 'tiny.py:simclr'))


@pytest.mark.slow
def test_the_step_of_a_run_gathers_parameters_only(tiny):
  """Split gradients must not split the convolutions that make them."""
  experiment = build_experiment(changed(tiny, {'shard_optimizer': True}), devices=jax.devices()[:4])
  state = experiment.abstract_state
  pipeline = experiment.make_pipeline()
  (block,) = pipeline.blocks([(0, 1)])
  dispatch = make_dispatch(experiment, pipeline, 1)
  text = dispatch.lower(state, pipeline.resident, block).compile().as_text()
  moves = r'= \(?\w+\[([\d,]+)\]\S* (?:all-gather|all-to-all|collective-permute)'
  moved = {tuple(map(int, shape.split(','))) for shape in re.findall(moves, text)}
  kernels = {x.shape for x in jax.tree.leaves(state.params) if x.ndim > 2}
  assert kernels & moved == {s for s in moved if len(s) > 2}


@pytest.mark.slow
def test_switched_on_resume(tiny, tmp_path):
  """Neither option changes what is trained."""
  on = changed(tiny, {'shard_optimizer': True, 'model.remat': True})
  run = workdir.Workdir(tmp_path)
  identity = open_run(run, tiny, keys_without_effect(tiny))
  atomic_write(run.metrics / 'rows', '{}')  # it has trained
  leaves = []
  for config in (on, tiny):
    assert open_run(run, config, keys_without_effect(config)).config_hash == identity.config_hash
    state = build_experiment(config, devices=jax.devices()[:4]).abstract_state
    leaves.append(checkpoint.describe(state))
    split = [x for x in jax.tree.leaves(state) if not x.sharding.is_fully_replicated]
    assert bool(split) == (config is on)
  assert leaves[0] == leaves[1]
