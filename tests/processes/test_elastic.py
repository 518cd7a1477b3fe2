"""A run resumes with another number of devices or processes, as if that had been its number always.

The method has all there is to restore: a table, a queue, an EMA target, an optimizer, a probe.
"""

import contextlib

import jax
import numpy as np
import pytest

from clr_jax.core.config_tree import changed
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.training.dispatch import make_dispatch
from tests.processes.launching import TINY, assert_same, ended, launch, rows_of

pytestmark = pytest.mark.slow
CONFIG = f'{TINY}:dynamic_moco'
# At the config's own rate training amplifies rounding a thousandfold within 20 steps.
RATE = 0.01


def leaves(state):
  """{path: array} of all of a train state."""
  state = jax.device_get(state.replace(key=jax.random.key_data(state.key)))
  found = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(p, simple=True, separator='/'): np.asarray(x) for p, x in found}


def assert_close(actual, expected, steps):
  """Equal integers and equally many visits, in the same places; numbers within rounding."""
  assert actual.keys() == expected.keys()
  assert {'queue', 'target', 'per_example'} <= {k.split('/')[1] for k in actual if 'state/' in k}
  assert int(actual['step']) == steps
  for name, value in expected.items():
    exact = not np.issubdtype(value.dtype, np.floating)
    tolerance = {'rtol': 0, 'atol': 0} if exact else {'rtol': 1e-3, 'atol': 1e-4}
    np.testing.assert_allclose(actual[name], value, **tolerance, err_msg=name)
  (table,) = (v for k, v in actual.items() if 'per_example' in k and 'log_u' in k)
  assert np.isfinite(table).sum() == steps * 64


def train_on(devices, shard, directory, first, last):
  """Steps first..last on so many devices, from the checkpoint at `first` to one at `last`."""
  config = changed(load(CONFIG), {'optimizer.learning_rate': RATE, 'shard_optimizer': shard})
  experiment = build_experiment(config, devices=jax.devices()[:devices])
  pipeline = experiment.make_pipeline()
  dispatch = make_dispatch(experiment, pipeline, 1)
  order = []
  with Checkpoints(directory) as checkpoints:
    state = checkpoints.restore(experiment.abstract_state) if first else experiment.init()
    with contextlib.closing(pipeline.blocks([(i, 1) for i in range(first, last)])) as blocks:
      for block in blocks:
        order.append(jax.device_get(block))
        state, _ = dispatch(state, pipeline.resident, block)
    assert checkpoints.save(last, state)
  return state, order


def test_devices_come_and_go(tmp_path):
  expected, expected_order = train_on(1, False, tmp_path / 'one', 0, 6)
  order = []
  for devices, shard, first, last in ((4, True, 0, 2), (1, True, 2, 4), (8, False, 4, 6)):
    state, part = train_on(devices, shard, tmp_path / 'many', first, last)
    order += part
    assert len(state.step.sharding.device_set) == devices
  jax.tree.map(np.testing.assert_array_equal, order, expected_order)
  assert_close(leaves(state), leaves(expected), 6)


@pytest.mark.weekly
def test_processes_come_and_go(zygote, tmp_path):
  """4, then 1, then 2 real processes; the state is that of one process all along."""
  program = zygote.script(tmp_path, 'clr_jax')
  shorter = {'num_epochs': 12 / 22, 'schedule.warmup_epochs': 0.2, 'data.test_split': ''}
  settings = {**shorter, 'eval_every': 0.0, 'optimizer.learning_rate': RATE}

  def run(number, name, **more):
    flags = [f'--config.{key}={value}' for key, value in {**settings, **more}.items()]
    workdir = f'--workdir={tmp_path / name}'
    started = launch(program, number, 'train', f'--config={CONFIG}', workdir, *flags)
    code, output = ended(started)
    assert code == 0, output
    return output

  def final(name):
    experiment = build_experiment(changed(load(CONFIG), settings), devices=jax.devices()[:1])
    with Checkpoints(tmp_path / name, read_only=True) as checkpoints:
      return leaves(checkpoints.restore(experiment.abstract_state))

  run(1, 'one')
  run(4, 'many', stop_at_epoch=4 / 22, shard_optimizer=True)
  assert 'at step 4' in run(1, 'many', stop_at_epoch=8 / 22)
  assert 'at step 8' in run(2, 'many', shard_optimizer=True)
  assert_same(rows_of(tmp_path / 'many'), rows_of(tmp_path / 'one'))
  assert_close(final('many'), final('one'), 12)
