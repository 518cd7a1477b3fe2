"""The loop without processes: its rows, what it refuses and what stops it."""

import errno
import itertools
import math
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import RunStopped, UserError
from clr_jax.core.metrics import Sum
from clr_jax.data.pipeline import Pipeline
from clr_jax.experiment.build import build_experiment, example_batch
from clr_jax.experiment.config_files import load
from clr_jax.rundir import workdir
from clr_jax.rundir.checkpoint import Checkpoints, SaveFailed
from clr_jax.rundir.rows import read_metrics
from clr_jax.training import loop
from clr_jax.training.dispatch import make_dispatch
from clr_jax.training.start import start_or_resume
from tests.evaluation.runs import one_device  # noqa: F401  (a fixture)

TINY = pathlib.Path(__file__).parent.parent / 'tiny.py'


def tiny(method='sogclr', **changes):
  """The tiny config with dotted keys changed, as flags change them."""
  config = load(f'{TINY}:{method}')
  with config.unlocked():
    config.update_from_flattened_dict({'progress': False, **changes})
  return config


# ---------------------------------------------------------------- telemetry
@pytest.mark.slow
def test_telemetry_is_switched_by_config_and_not_part_of_what_is_trained():
  off, on = tiny('moco'), tiny('moco', **{'telemetry.enabled': True, 'telemetry.bins': 3})
  states, rows = [], []
  experiments = [build_experiment(config) for config in (off, on)]
  for experiment in experiments:
    batch = example_batch(experiment.source, 64)
    state, row = jax.eval_shape(experiment.step_fn, experiment.abstract_state, batch)
    states.append(jax.tree.structure(state))
    rows.append(row)
  assert states[0] == states[1] and rows[0].keys() < rows[1].keys()
  assert rows[1]['telemetry/neg_hist'].total.shape == (5,)
  assert experiments[0].config_hash == experiments[1].config_hash


# ---------------------------------------------------------------- dispatch
def test_one_dispatch_of_many_steps_equals_many_of_one():
  """Without convolutions, so that the CPU can scan."""
  state = {'w': jnp.ones([3])}

  def step_fn(state, batch):
    w = state['w'] * 0.5 + batch
    return {'w': w}, {'loss': w.sum(), 'counts': Sum(w, 1.0)}

  first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  experiment = types.SimpleNamespace(step_fn=step_fn, shardings={'w': first})
  pipeline = types.SimpleNamespace(batch=lambda resident, row: resident[row['index']])
  resident = jnp.arange(12.0).reshape(4, 3)
  index = jnp.array([2, 0, 3, 1])
  many = make_dispatch(experiment, pipeline, 4)
  end, together = many(jax.tree.map(jnp.copy, state), resident, {'index': index})
  apart = []
  for i in range(4):
    state, one = many(state, resident, {'index': index[i : i + 1]})
    apart.append(one)
  np.testing.assert_array_equal(end['w'], state['w'])
  apart = jax.tree.map(lambda *rows: np.concatenate(rows), *apart)
  jax.tree.map(np.testing.assert_array_equal, together, apart)
  assert together['counts'].total.shape == (4, 3) and together['counts'].count.shape == (4,)


# ---------------------------------------------------------------- whole runs
ONLINE_AT_END = {'data.test_split': '', 'eval_every': 0.0}
NO_TEST = {
  **ONLINE_AT_END,
  'checkpoint_every': 0.0,
  'num_epochs': 0.27,
  'schedule.warmup_epochs': 0.1,
}


ONE_WORKER = pytest.mark.xdist_group('trained')  # one run


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A finished run without a test set and with `eval_every=0`."""
  directory = tmp_path_factory.mktemp('trained')
  config = tiny('simclr', **NO_TEST)
  loop.train(config, str(directory))
  return directory


def rows(directory):
  return read_metrics(workdir.Workdir(directory))


@ONE_WORKER
def test_evaluated_and_saved_once_at_the_end(trained):
  read = rows(trained)
  assert [r['step'] for r in read] == [4, 6]
  assert [r['step'] for r in read if 'rankme' in r] == [6]
  assert all(math.isfinite(r['loss']) for r in read)
  assert [p.name for p in (trained / 'checkpoints').iterdir() if p.name.isdigit()] == ['6']
  assert not any('online_knn_top1' in r for r in read)  # no test set


@ONE_WORKER
def test_a_finished_run_trains_nothing(trained, monkeypatch, capsys):
  monkeypatch.setattr(loop, '_loop', None)  # would raise
  before = rows(trained)
  loop.train(tiny('simclr', **NO_TEST), str(trained))
  out = capsys.readouterr().out.splitlines()
  assert out == [
    f'resumed {trained} at step 6',
    'the evaluation (knn) is skipped: there is no test set',
  ]
  assert rows(trained) == before


@pytest.mark.slow
@ONE_WORKER
def test_lost_checkpoints_are_said(tmp_path, capsys):
  run = workdir.Workdir(tmp_path)
  fake = types.SimpleNamespace(init=lambda: 'new', config=types.SimpleNamespace(init_from=''))
  none = types.SimpleNamespace(latest_step=lambda: None)
  assert start_or_resume(fake, run, none)[:2] == ('new', 0)
  assert capsys.readouterr() == ('', '')
  run.metrics.mkdir()
  (run.metrics / f'{1:020d}-step{0:012d}.jsonl').write_text('{"step": 4}\n{"step": 8}\n')
  assert start_or_resume(fake, run, none)[:2] == ('new', 0)
  out, err = capsys.readouterr()
  assert not out and err.count('\n') == 1
  assert f'{tmp_path} has no checkpoint, although its metrics reach step 8: it starts again' in err


def test_init_from_starts_at_step_0_with_a_fresh_optimizer(trained, tmp_path, monkeypatch):
  started = []

  def no_loop(experiment, sets, run, checkpoints, start):
    started.append((start.state, start.step))
    return start.state

  monkeypatch.setattr(loop, '_loop', no_loop)
  config = tiny('sogclr', **NO_TEST, init_from=str(trained), seed=1)
  loop.train(config, str(tmp_path))
  ((state, first),) = started
  assert first == 0 and int(state.step) == 0
  experiment = build_experiment(tiny('simclr', **NO_TEST))
  with Checkpoints(trained, read_only=True) as checkpoints:
    other = checkpoints.restore(experiment.abstract_state)
  assert any(x.any() for x in jax.tree.leaves(other.opt_state) if x.dtype == jnp.float32)
  same = jax.tree.map(np.array_equal, state.params['backbone'], other.params['backbone'])
  assert all(jax.tree.leaves(same))
  momentum = [x for x in jax.tree.leaves(state.opt_state) if x.dtype == jnp.float32]
  assert not any(x.any() for x in momentum)
  assert not np.isfinite(state.state['per_example']['log_u']).any()


@pytest.mark.slow
@ONE_WORKER
def test_init_from_copies_the_online_network_into_an_ema_target(trained, tmp_path, monkeypatch):
  started = []

  def no_loop(experiment, sets, run, checkpoints, start):
    started.append(start.state)
    return start.state

  monkeypatch.setattr(loop, '_loop', no_loop)
  small = {'method.hidden_dim': 8, 'method.out_dim': 8, 'method.predictor_dim': 8}
  loop.train(tiny('byol', **NO_TEST, **small, init_from=str(trained), seed=1), str(tmp_path))
  (state,) = started
  with Checkpoints(trained, read_only=True) as checkpoints:
    other = checkpoints.restore(build_experiment(tiny('simclr', **NO_TEST)).abstract_state)
  for part, trees in state.state['target'].items():
    online = state.params if part == 'params' else state.state['batch_stats']
    for name, tree in trees.items():
      assert all(jax.tree.leaves(jax.tree.map(np.array_equal, tree, online[name])))
  target = state.state['target']['params']['backbone']
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, target, other.params['backbone'])))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(tmp_path):
  often = {'checkpoint_every': 0.05, 'log_every': 3, 'schedule.warmup_epochs': 0.2}
  config = tiny(
    'simclr',
    **ONLINE_AT_END,
    **often,
    **{'optimizer.learning_rate': 1e9, 'optimizer.weight_decay': 1e9},
  )
  with pytest.raises(RunStopped, match='the last good checkpoint is step ') as stopped:
    loop.train(config, str(tmp_path))
  assert stopped.value.code == 1 and '\n' not in str(stopped.value)
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    state = checkpoints.restore(build_experiment(config).abstract_state)
  assert f'step {int(state.step)}:' in str(stopped.value)
  numbers = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
  assert all(np.isfinite(x).all() for x in numbers)
  assert not (tmp_path / 'results').exists()


@pytest.mark.slow
def test_an_image_that_cannot_be_read_loses_no_training(tmp_path, monkeypatch):
  """It is met after hours: what was trained until there is saved, and evaluated when it can be.

  One of the test set first, at step 9, then one of the training set at step 13.
  """
  config = tiny(**{'checkpoint_every': 0.0})

  def damaged(online, state):
    raise UserError('cannot read the image x')

  with monkeypatch.context() as patch:
    patch.setattr(loop.runner.Online, '__call__', damaged)
    with pytest.raises(UserError, match='cannot read the image x'):
      loop.train(config, str(tmp_path))
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.latest_step() == 9 and checkpoints.is_unevaluated(9)

  def blocks(pipeline, calls):
    yield from itertools.islice(original(pipeline, calls), 4)
    raise UserError('cannot read the image y')

  original = Pipeline.blocks
  with monkeypatch.context() as patch:
    patch.setattr(Pipeline, 'blocks', blocks)
    with pytest.raises(UserError, match='cannot read the image y'):
      loop.train(config, str(tmp_path))
  found = {row['step']: row for row in rows(tmp_path)}
  assert 'online_knn_top1' in found[9] and max(found) == 12
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.latest_step() == 13 and not checkpoints.is_unevaluated(13)
  loop.train(config, str(tmp_path))
  assert max(row['step'] for row in rows(tmp_path)) == 22


@pytest.mark.slow
def test_a_loss_that_is_not_finite_from_the_start(tmp_path):
  huge = {'optimizer.learning_rate': 1e9, 'optimizer.weight_decay': 1e9}
  config = tiny('simclr', **ONLINE_AT_END, **huge)
  with pytest.raises(RunStopped, match='no checkpoint was written yet') as stopped:
    loop.train(config, str(tmp_path))
  assert stopped.value.code == 1


@pytest.mark.parametrize(
  ('error', 'mend'),
  [
    (OSError(errno.ENOSPC, 'No space'), 'free disk space; run the same'),
    (
      OSError(errno.ENOSPC, 'No space', '/dev/shm/x'),
      r'^cannot write or read /dev/shm/x \(No space\): make /dev/shm/x usable; run the same',
    ),
    *(
      pytest.param(error, words, marks=pytest.mark.slow)
      for error, words in (
        (OSError(errno.EROFS, 'Read-only'), 'make the workdir writable; run the same'),
        (OSError(errno.EIO, 'Input/output'), 'make the workdir writable; run the same'),
        (
          SaveFailed('cannot be written (No space left on device)'),
          'free disk space; run the same',
        ),
        (SaveFailed('cannot be written (TypeError)'), 'make the workdir writable; run the s'),
      )
    ),
  ],
)
def test_what_to_do_where_nothing_can_be_written(tmp_path, monkeypatch, error, mend):
  def refuse(*_):
    raise error

  monkeypatch.setattr(loop, '_loop', refuse)
  with pytest.raises(RunStopped, match=mend) as stopped:
    loop.train(tiny(**ONLINE_AT_END), str(tmp_path))
  assert stopped.value.code == 74


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'log_every': -1}, 'log_every=-1'),
    ({'keep_last': 0}, 'keep_last=0'),
    ({'stop_at_epoch': 0.0}, 'stop_at_epoch=0'),
    ({'steps_per_call': 0}, 'steps_per_call=0'),
    ({'data.mode': 'memory'}, 'data.mode'),
    ({'seed': -1}, 'seed=-1'),
    ({'init_from': 'nowhere'}, 'nowhere'),
    ({'eval.features': ('trainde',)}, "did you mean 'trained'"),
    ({'eval.protocols.knn.k': 0}, 'k=0'),
    ({'eval.protocols': {'knn': {'kk': 5}}}, 'kk'),
    ({'eval.protocols': {'knnn': {}}}, "did you mean 'knn'"),
    ({'eval.protocols': {'linear': {'label_fraction': (0.001, 1.0)}}}, 'label_fraction=0.001'),
    ({'eval.protocols': {'linear': {'label_fraction': 2.0}}}, 'label_fraction=2.0'),
    ({'eval.protocols': {'linear': {'draws': 0}}}, 'draws=0'),
    ({'eval.protocols': {'linear': {'solver': 'sdg'}}}, "did you mean 'sgd'"),
    ({'eval.protocols': {'linear': {'epochs': 5}}}, "no option 'epochs'"),
    ({'eval.protocols': {'knn': {'temperature': -1.0}}}, 'temperature=-1.0'),
    ({'eval.protocols': {'knn': {'distance': 'cosin'}}}, "did you mean 'cosine'"),
    ({'num_epochs': float('nan')}, 'num_epochs=nan'),
    ({'num_epochs': float('inf')}, 'num_epochs=inf'),
    ({'model.width': 0}, 'model.width=0'),
    ({'augment.size': 0}, 'augment.size=0'),
    ({'method.temperature': 0.0}, 'method.temperature=0.0'),
    ({'optimizer.learning_rate': float('nan')}, 'optimizer.learning_rate=nan'),
    ({'profile': (5,)}, 'profile=(5,)'),
  ],
)
def test_refused_before_anything_is_written(tmp_path, changes, words):
  with pytest.raises(UserError) as refused:
    loop.train(tiny(**changes), str(tmp_path / 'new'))
  assert words in str(refused.value) and '\n' not in str(refused.value)
  assert not (tmp_path / 'new').exists()
