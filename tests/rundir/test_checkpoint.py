"""Saving, keeping, restoring; damage, donation, other device counts, SIGKILL."""

import math
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.types import TrainState
from clr_jax.rundir import checksums
from clr_jax.rundir.checkpoint import Checkpoints
from tests.rundir.states import abstract, assert_same, make_state, raw, saved, truncate

# Reading a damaged checkpoint, Orbax leaves its other reads behind: they find their loop closed.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.mark.parametrize('devices', [8, 4, 1])
def test_restores_bit_exactly_on_any_number_of_devices(tmp_path, devices):
  state = make_state()
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() is None
    assert checkpoints.save(7, state)
    assert checkpoints.latest_step() == 7
  with Checkpoints(tmp_path) as checkpoints:
    target = abstract(state, devices)
    restored = checkpoints.restore(target)
  assert_same(restored, state)
  assert restored.key.dtype == state.key.dtype
  for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(target), strict=True):
    assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
  jax.random.normal(restored.key)  # still a typed key


def test_saved_buffers_may_be_donated_at_once(tmp_path):
  step = jax.jit(lambda x: x + 1, donate_argnums=0)
  x = jax.device_put(jnp.zeros(2**20), jax.devices()[0])
  base = make_state()
  with Checkpoints(tmp_path, keep_last=9) as checkpoints:
    for number in range(4):
      checkpoints.save(number, base.replace(params={'x': x}, opt_state=()))
      x = step(x)
      buffer = x.unsafe_buffer_pointer()
      for _ in range(20):
        x = step(x)
      assert x.unsafe_buffer_pointer() == buffer  # donation does overwrite here
    checkpoints.wait()
    target = base.replace(params={'x': x}, opt_state=())
    for number in range(4):
      found = np.asarray(checkpoints.restore(target, number).params['x'])
      np.testing.assert_array_equal(found, 21.0 * number)


def test_keeps_the_last_and_the_best(tmp_path):
  state = make_state()
  scores = {1: 0.1, 2: 0.9, 3: None, 4: 0.3, 5: 0.9, 6: 0.2, 7: float('nan')}

  def save(checkpoints, step):
    metrics = {} if scores[step] is None else {'knn': scores[step]}
    assert checkpoints.save(step, state, metrics=metrics)

  with Checkpoints(tmp_path, keep_last=2, keep_best='knn') as checkpoints:
    for step in (1, 2, 3, 4):
      save(checkpoints, step)
    checkpoints.wait()
    assert steps_on_disk(tmp_path) == [2, 3, 4]
    assert checkpoints.best_step() == 2
  with Checkpoints(tmp_path, keep_last=2, keep_best='knn') as checkpoints:  # scores are read back
    assert checkpoints.best_step() == 2
    for step in (5, 6, 7):  # of equals the later one
      save(checkpoints, step)
    checkpoints.wait()
    assert steps_on_disk(tmp_path) == [5, 6, 7]
    assert checkpoints.best_step() == 5
  with pytest.raises(UserError, match='keep_last'):
    Checkpoints(tmp_path, keep_last=0)


def steps_on_disk(path):
  return sorted(int(p.name) for p in (path / 'checkpoints').iterdir() if p.name.isdigit())


def test_numbers_that_are_not_finite_come_back(tmp_path):
  metrics = {'a': math.inf, 'b': -math.inf, 'c': math.nan, 'd': 1 / 3}
  with Checkpoints(tmp_path, keep_best='a') as checkpoints:
    assert checkpoints.save(1, make_state(), metrics=metrics)
    assert checkpoints.best_step() is None
  with Checkpoints(tmp_path, keep_best='a') as checkpoints:
    assert checkpoints.best_step() is None
    np.testing.assert_equal(dict(checkpoints.metrics(1)), metrics)


def test_only_finite_states_are_saved(tmp_path, caplog):
  state = make_state()
  broken = jax.tree.map(lambda x: x, state.params)
  broken['projector']['kernel'] = broken['projector']['kernel'].at[0, 0].set(jnp.nan)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.save(1, state, metrics={'loss': 2.0})
    assert not checkpoints.save(2, state, metrics={'loss': float('inf')})
    assert not checkpoints.save(3, state.replace(params=broken), force=True)
    assert checkpoints.latest_step() == 1
  assert 'loss is inf' in caplog.text
  assert 'parameter is not finite' in caplog.text


def test_a_saved_step_is_replaced_only_by_force(tmp_path):
  state = make_state()
  other = make_state(seed=1)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.save(1, state)
    assert not checkpoints.save(1, other)
    assert_same(checkpoints.restore(abstract(state)), state)
    assert checkpoints.save(1, other, force=True)
    assert_same(checkpoints.restore(abstract(state)), other)


def test_a_damaged_newest_checkpoint_is_skipped_and_replaced(tmp_path, capsys):
  state = saved(tmp_path, (1, 2, 3), keep_last=3)
  truncate(tmp_path / 'checkpoints' / '3')
  (tmp_path / 'checkpoints' / '2' / 'meta' / 'metadata').write_text('{"leav')
  (tmp_path / 'checkpoints' / '4.orbax-checkpoint-tmp').mkdir()  # killed while writing
  with Checkpoints(tmp_path, keep_last=2, keep_best='knn') as checkpoints:
    assert checkpoints.latest_step() == 3
    restored = checkpoints.restore(abstract(state))
    assert int(restored.step) == 1
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 1
    assert 'damaged checkpoint 3 (' in out[0]
    assert 'took step 1' in out[0]
    with pytest.raises(UserError, match='is damaged: give another step'):
      checkpoints.restore(abstract(state), 3)
    assert checkpoints.save(2, restored.replace(step=jnp.int32(2)))  # before the damaged latest
    checkpoints.wait()
    assert checkpoints.latest_step() == 2
    assert int(checkpoints.restore(abstract(state)).step) == 2
    assert steps_on_disk(tmp_path) == [1, 2]
  assert not (tmp_path / 'checkpoints' / '4.orbax-checkpoint-tmp').exists()


def test_one_flipped_bit_anywhere_is_noticed(tmp_path, capsys):
  state = saved(tmp_path, (1, 2))
  files = [p for p in sorted((tmp_path / 'checkpoints' / '2').rglob('*')) if p.is_file()]
  assert {'checksums.txt', 'metadata', '_CHECKPOINT_METADATA'} <= {p.name for p in files}
  rng = np.random.default_rng(0)
  for file in files:
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
    file.write_bytes(damaged)
    assert checksums.damage(epath.Path(tmp_path / 'checkpoints' / '2')), file
    file.write_bytes(whole)
  file = max(files, key=lambda path: path.stat().st_size)
  file.write_bytes(file.read_bytes()[:-1] + b'x')
  with Checkpoints(tmp_path) as checkpoints:
    assert int(checkpoints.restore(abstract(state)).step) == 1
    with pytest.raises(UserError, match=r'checkpoint 2 \(.* has changed since it was written\)'):
      checkpoints.restore(abstract(state), 2)
    assert checkpoints.save(2, state)
  assert steps_on_disk(tmp_path) == [1, 2]
  assert (tmp_path / 'damaged' / '2' / file.relative_to(tmp_path / 'checkpoints' / '2')).exists()
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 2 and said[1].endswith(f'is now {tmp_path}/damaged/2')


@pytest.mark.parametrize('process', [0, 1])
def test_each_process_checks_its_part(tmp_path, process):
  saved(tmp_path, (1,))
  folder = epath.Path(tmp_path / 'checkpoints' / '1')
  assert not checksums.damage(folder, process, 2)
  for file in (tmp_path / 'checkpoints' / '1').rglob('d/*'):
    file.write_bytes(file.read_bytes() + b'x')
  damaged = [checksums.damage(folder, part, 3) for part in range(3)]
  assert any(damaged)
  (folder / 'checksums.txt').unlink()  # of an earlier version
  assert not any(checksums.damage(folder, part, 3) for part in range(3))


def test_a_removal_that_was_cut_off_is_completed(tmp_path):
  """A removed checkpoint has another name before its first file is deleted."""
  saved(tmp_path, (1, 2))
  folder = tmp_path / 'checkpoints'
  (folder / '.removed').mkdir()
  (folder / '1').rename(folder / '.removed' / '1')
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() == 2
    assert checkpoints.save(1, make_state())
  assert sorted(path.name for path in folder.iterdir()) == ['1', '2']


def test_nothing_to_restore(tmp_path):
  state = make_state()
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(UserError, match='no checkpoint'):
      checkpoints.restore(abstract(state))
    checkpoints.save(1, state)
    with pytest.raises(UserError, match=r'no checkpoint 5: there are \[1\]'):
      checkpoints.restore(abstract(state), 5)
  truncate(tmp_path / 'checkpoints' / '1')
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match='tried 1'):
    checkpoints.restore(abstract(state))
  with pytest.raises(UserError, match='no checkpoints'):
    Checkpoints(tmp_path / 'elsewhere', read_only=True)
  assert not (tmp_path / 'elsewhere').exists()


def test_another_model_is_refused_in_one_sentence(tmp_path):
  saved(tmp_path, (1, 2))
  wider, fewer = make_state(width=5), make_state()
  fewer.params.pop('projector')
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(UserError, match='another method or model') as error:
      checkpoints.restore(abstract(wider))
    assert 'float32[4] there and float32[5] here' in str(error.value)
    with pytest.raises(UserError, match=r'projector/kernel is bfloat16.* and absent here'):
      checkpoints.restore(abstract(fewer))


def test_read_only_neither_writes_nor_cleans(tmp_path):
  state = saved(tmp_path, (1,))
  writing = tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
  writing.mkdir()
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert_same(checkpoints.restore(abstract(state)).params, state.params)
  assert writing.exists()


CHILD = """
import sys
import jax, jax.numpy as jnp
jax.config.update('jax_platforms', 'cpu')
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.core.types import TrainState

def make(step):
  big = jnp.full((300, 1000), step, jnp.float32)
  parts = {str(i): big + i for i in range(5)}
  return TrainState(jnp.int32(step), parts, {'u': big}, (), jax.random.key(step))

with Checkpoints(sys.argv[1]) as checkpoints:
  start = checkpoints.latest_step()
  start = 0 if start is None else int(checkpoints.restore(make(0)).step)
  print('ready', start, flush=True)
  for step in range(start + 1, 10**6):
    checkpoints.save(step, make(step))
    print(step, flush=True)
"""


@pytest.mark.slow
def test_sigkill_at_any_moment_leaves_a_consistent_checkpoint(tmp_path):
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)}
  rng = np.random.default_rng(0)
  latest = 0
  for _ in range(6):
    child = subprocess.Popen(
      [sys.executable, '-c', CHILD, str(tmp_path)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    assert child.stdout is not None
    try:
      ready = child.stdout.readline().split()
      assert ready[:1] == ['ready']
      assert int(ready[1]) == latest
      for _ in range(4):
        assert int(child.stdout.readline()) > latest
      time.sleep(rng.uniform(0, 0.3))
    finally:
      child.send_signal(signal.SIGKILL)
      child.wait()
      child.stdout.close()
    big = jnp.zeros((300, 1000))
    target = TrainState(
      jnp.int32(0), {str(i): big for i in range(5)}, {'u': big}, (), jax.random.key(0)
    )
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
      restored = checkpoints.restore(target)
    step = int(restored.step)
    assert step >= latest + 3  # a save waits for the one before
    for i, part in restored.params.items():
      np.testing.assert_array_equal(np.asarray(part), step + int(i))
    np.testing.assert_array_equal(np.asarray(restored.state['u']), step)
    np.testing.assert_array_equal(raw(restored.key), raw(jax.random.key(step)))
    latest = step


@pytest.mark.parametrize(
  'name, words', [('checksums.txt', 'not a regular file'), ('a', 'a is not a regular file')]
)
def test_a_pipe_in_a_checkpoint_is_damage(tmp_path, name, words):
  """Reading it would never end."""
  (tmp_path / 'a').write_text('x')
  checksums.write(epath.Path(tmp_path))
  assert not checksums.damage(epath.Path(tmp_path))
  (tmp_path / name).unlink()
  os.mkfifo(tmp_path / name)
  assert words in checksums.damage(epath.Path(tmp_path))
