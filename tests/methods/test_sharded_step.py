"""Traffic of the compiled step between eight devices, from XLA's text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from clr_jax import augment, methods, models, optim
from clr_jax.bench.communication import found as collectives
from clr_jax.core.types import Batch, RunInfo
from clr_jax.experiment.train_step import init_state, make_train_step
from clr_jax.ops import sharding
from clr_jax.ops.tables import num_rows
from tests import method_cases
from tests.methods import traffic

SIDE, BATCH, CLASSES = 8, 16, 4


@functools.cache
def step_on_eight(name, num_examples=1501):
  """(compiled step, state, batch) with real views, as an experiment puts them together."""
  mesh = sharding.make_mesh()
  views = augment.make('infomin_jigsaw' if name == 'infomin' else 'sogclr', size=SIDE)
  info = RunInfo(num_examples, CLASSES, BATCH, 2, num_examples // BATCH, 100)
  method = methods.factory(name)(
    models.make('resnet_tiny', width=2), info, **method_cases.options(name)
  )
  rng = np.random.default_rng(0)
  batch = Batch(
    image=rng.integers(0, 256, [BATCH, SIDE, SIDE, 3], np.uint8),
    label=np.arange(BATCH, dtype=np.int32) % CLASSES,
    index=np.linspace(0, num_examples - 1, BATCH).astype(np.int32),
  )
  tx = optim.make('sgd', method.groups, learning_rate=0.1)

  def init(key):
    return init_state(key, batch, method, views, tx)

  shardings = sharding.train_state_shardings(mesh, jax.eval_shape(init, jax.random.key(0)))
  state = jax.jit(init, out_shardings=shardings)(jax.random.key(0))
  batch = jax.device_put(batch, sharding.by_rows(mesh))
  step = jax.jit(make_train_step(method, views, tx, mesh=mesh), out_shardings=(shardings, None))
  return step.lower(state, batch).compile(), state, batch


def test_a_callback_would_be_seen():
  printing = jax.jit(lambda x: jax.debug.print('{}', x) or x)
  assert traffic.HOST.search(printing.lower(1.0).compile().as_text())


@pytest.mark.parametrize(
  'name',
  [
    pytest.param('sogclr', marks=pytest.mark.slow),
    pytest.param('infomin', marks=pytest.mark.weekly),
  ],
)
def test_images_do_not_move_and_the_host_is_not_asked(name):
  """With real views; the other methods, with toy ones: test_contract.py."""
  traffic.check(step_on_eight(name)[0].as_text(), pixels=BATCH * 2 * SIDE * SIDE * 3)


@pytest.mark.slow
def test_nothing_sent_grows_with_the_data_set():
  small, large = (step_on_eight('sogclr', n)[0].as_text() for n in (1501, 600_001))
  assert collectives(small) == collectives(large)
  rows = num_rows(600_001)
  assert f'f32[{rows // 8}]' in large  # a device's part of the table
  assert f'f32[{rows}]' not in large  # the whole of it is nowhere


@pytest.mark.slow
def test_the_table_stays_sharded():
  compiled, state, batch = step_on_eight('sogclr')
  table = state.state['per_example']['log_u']
  assert table.sharding.spec == PartitionSpec('data') and table.shape == (num_rows(1501),)
  new, _ = compiled(state, batch)
  new = new.state['per_example']['log_u']
  assert new.sharding.spec == PartitionSpec('data')
  assert {s.data.shape for s in new.addressable_shards} == {(num_rows(1501) // 8,)}
  visited = np.flatnonzero(np.isfinite(np.asarray(new)))
  np.testing.assert_array_equal(visited, np.asarray(batch.index))
  assert jnp.isneginf(new).sum() == num_rows(1501) - BATCH
