"""The loop without processes: its plan, its rows, what it refuses and what stops it."""

import errno
import math
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.core.errors import RunStopped, UserError
from clr_jax.core.metrics import Mean, Sum
from clr_jax.experiment import build
from clr_jax.experiment.build import build_experiment, example_batch
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.ops import sharding
from clr_jax.rundir import metrics, workdir
from clr_jax.rundir.checkpoint import Checkpoints, SaveFailed
from clr_jax.rundir.identity import hash_config
from clr_jax.training import loop
from clr_jax.training.cadence import Cadence, plan
from clr_jax.training.dispatch import make_dispatch
from clr_jax.training.metric_accumulator import MetricAccumulator
from tests.rundir.test_checkpoint import make_state

TINY = pathlib.Path(__file__).parent.parent / 'tiny.py'


def tiny(method='sogclr', **changes):
  """The tiny config with dotted keys changed, as flags change them."""
  config = load(f'{TINY}:{method}')
  with config.unlocked():
    config.update_from_flattened_dict({'progress': False, **changes})
  return config


# ---------------------------------------------------------------- plan
cadences = st.builds(Cadence, st.integers(0, 9), st.integers(0, 30), st.integers(0, 30))


def steps_of(calls):
  return [step + i for step, count in calls for i in range(count)]


@given(st.integers(0, 80), st.integers(0, 80), cadences, st.integers(1, 12))
def test_plan_covers_every_step_once_and_no_cadence_inside(first, last, cadence, size):
  calls = list(plan(first, last, cadence, size))
  assert steps_of(calls) == list(range(first, last))
  assert {count for _, count in calls} <= {1, size}
  for step, count in calls:
    for period in filter(None, cadence):
      assert all(inner % period for inner in range(step + 1, step + count))


@given(st.integers(1, 80), cadences, st.integers(1, 12), st.data())
def test_plan_does_not_depend_on_where_a_run_was_resumed(last, cadence, size, data):
  calls = list(plan(0, last, cadence, size))
  position = data.draw(st.integers(0, len(calls) - 1))
  assert list(plan(calls[position][0], last, cadence, size)) == calls[position:]


@given(st.integers(1, 60), st.integers(0, 60), cadences, st.integers(1, 12))
def test_plan_of_a_longer_run_goes_on_where_the_shorter_one_ended(last, more, cadence, size):
  """`stop_at_epoch` raised: the remainder of the cut dispatch is done in single steps."""
  calls = [*plan(0, last, cadence, size), *plan(last, last + more, cadence, size)]
  assert steps_of(calls) == list(range(last + more))


# ---------------------------------------------------------------- accumulated metrics
values = st.floats(-1e6, 1e6, width=32)
any_values = st.one_of(values, st.sampled_from([math.inf, -math.inf, math.nan]))


@settings(deadline=None, max_examples=30)
@given(st.lists(any_values, min_size=1, max_size=12), st.data())
def test_rows_do_not_depend_on_dispatches_or_interruptions(losses, data):
  expected = MetricAccumulator()
  for loss in losses:
    expected.add({'loss': np.float32([loss])})
  accumulated, rest = MetricAccumulator(), losses
  while rest:
    count = data.draw(st.integers(1, len(rest)))
    accumulated.add({'loss': np.float32(rest[:count])})
    rest = rest[count:]
    if data.draw(st.booleans()):
      accumulated = MetricAccumulator.restored(accumulated.stored())
  np.testing.assert_equal(accumulated.row(), expected.row())
  if np.isfinite(losses).all():
    assert math.isclose(accumulated.row()['loss'], np.mean(losses), rel_tol=1e-9, abs_tol=1e-9)
  accumulated.clear()
  assert accumulated.row() == {} and accumulated.stored() == {}


def test_a_checkpoint_holds_them_to_the_bit(tmp_path):
  steps = {
    'loss': np.float32([[1.1], [2.5]]),
    'least': np.float32([[-math.inf], [3.0]]),
    'both': np.float32([[math.inf], [-math.inf]]),
    'rare': Mean(np.float32([[0.0], [0.3]]), np.float32([[0], [1]])),
    'counts': Sum(np.float32([[[0.1, math.inf]], [[2.0, 3.0]]]), np.float32([[1], [1]])),
  }
  expected, accumulated = MetricAccumulator(), MetricAccumulator()
  for i in range(2):
    step = jax.tree.map(lambda x, i=i: x[i], steps)
    expected.add(step)
    accumulated.add(step)
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(i, make_state(), window=accumulated.stored())
    with Checkpoints(tmp_path) as checkpoints:
      accumulated = MetricAccumulator.restored(checkpoints.window(i))
  row = accumulated.row()
  np.testing.assert_equal(row, expected.row())
  assert row['least'] == -math.inf and math.isnan(row['both']) and row['rare'] == np.float32(0.3)
  assert row['counts'] == [float(np.float32(0.1)) + 2.0, math.inf]


# ---------------------------------------------------------------- telemetry
def test_telemetry_counts_in_its_own_steps_over_dispatches_and_interruptions():
  """Steps 0 and 3 of 4 are measured; zeros of the others do not count."""
  on, counts = np.float32([1, 0, 0, 1]), np.int32([[1, 2], [0, 0], [0, 0], [30, 4]])
  block = {
    'loss': np.float32([1, 2, 3, 4]),
    'telemetry/steps': Sum(on, on),
    'telemetry/neg_var': Mean(on * np.float32([5, 0, 0, 7]), on),
    'telemetry/neg_hist': Sum(counts, on),
  }
  accumulated = MetricAccumulator()
  for steps in (slice(0, 2), slice(2, 3), slice(3, 4)):
    accumulated.add(jax.tree.map(lambda x, steps=steps: x[steps], block))
    if steps.start == 2:
      assert accumulated.row()['telemetry/neg_var'] == 5
    accumulated = MetricAccumulator.restored(accumulated.stored())
  assert accumulated.row() == {
    'loss': 2.5,
    'telemetry/steps': 2.0,
    'telemetry/neg_var': 6.0,
    'telemetry/neg_hist': [31.0, 6.0],
  }
  accumulated.clear()
  accumulated.add(jax.tree.map(lambda x: x[1:3], block))
  assert accumulated.row() == {'loss': 2.5}


def test_telemetry_is_switched_by_config_and_not_part_of_what_is_trained():
  off, on = tiny('moco'), tiny('moco', **{'telemetry.enabled': True, 'telemetry.bins': 3})
  states, rows = [], []
  for experiment in map(build_experiment, (off, on)):
    batch = example_batch(experiment.source, 64)
    state, row = jax.eval_shape(experiment.step_fn, experiment.abstract_state, batch)
    states.append(jax.tree.structure(state))
    rows.append(row)
  assert states[0] == states[1] and rows[0].keys() < rows[1].keys()
  assert rows[1]['telemetry/neg_hist'].total.shape == (5,)
  keys = keys_without_effect(on)
  assert hash_config(on.to_dict(), keys) == hash_config(off.to_dict(), keys)


# ---------------------------------------------------------------- dispatch
def test_one_dispatch_of_many_steps_equals_many_of_one():
  """Without convolutions, so that the CPU can scan."""
  state = {'w': jnp.ones([3])}

  def step_fn(state, batch):
    w = state['w'] * 0.5 + batch
    return {'w': w}, {'loss': w.sum(), 'counts': Sum(w, 1.0)}

  one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  experiment = types.SimpleNamespace(step_fn=step_fn, shardings={'w': one_device})
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
@pytest.fixture(autouse=True, scope='module')
def one_device():
  """Compiling for eight takes three times as long, and the loop does not ask how many."""
  with pytest.MonkeyPatch.context() as patch:
    mesh = sharding.make_mesh(jax.devices()[:1])
    patch.setattr(build.sharding, 'make_mesh', lambda devices=None: mesh)
    yield


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
  return metrics.read_metrics(workdir.Workdir(directory))


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


@ONE_WORKER
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


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(tmp_path):
  often = {'checkpoint_every': 0.05, 'log_every': 3, 'schedule.warmup_epochs': 0.2}
  config = tiny('simclr', **ONLINE_AT_END, **often, **{'optimizer.learning_rate': 1e30})
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
def test_a_loss_that_is_not_finite_from_the_start(tmp_path):
  config = tiny('simclr', **ONLINE_AT_END, **{'optimizer.learning_rate': 1e37})
  with pytest.raises(RunStopped, match='no checkpoint was written yet') as stopped:
    loop.train(config, str(tmp_path))
  assert stopped.value.code == 1


@pytest.mark.parametrize(
  ('error', 'mend'),
  [
    (OSError(errno.ENOSPC, 'No space'), 'make room; the same'),
    (OSError(errno.EROFS, 'Read-only'), 'see that the workdir can be written; the same'),
    (OSError(errno.EIO, 'Input/output'), 'see that the workdir can be written; the same'),
    (SaveFailed('no checkpoint can be written'), 'make room; the same'),
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
