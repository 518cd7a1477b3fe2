"""Real processes that are really killed; the same command then resumes as if nothing had happened.

Every command is `clr-jax train ...`, through tests/processes/child.py, which injects the fault.
For every method, tests/methods/test_contract.py shows that its checkpoints hold all that it
carries; here one method of each kind is killed, and all of them once a week.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.method_cases import NAMES, SKELETONS
from tests.processes.launching import (
  ROOT,
  TINY,
  assert_same_to_the_bit,
  results_of,
  rows_without_clock,
  state_of,
)

ONE_WORKER = pytest.mark.xdist_group('survival')  # one reference run
TABLES = ('sogclr', 'isogclr', 'dynamic_moco', 'real')
STEPS = 22


def weekly_but(often, values):
  """Parameters: `often` in the slow suite, the other values in the weekly one."""
  return [
    pytest.param(x, marks=getattr(pytest.mark, 'slow' if x in often else 'weekly')) for x in values
  ]


class Runner:
  """Runs `train` on one CPU device."""

  def __init__(self, zygote):
    self._zygote = zygote

  def start(self, directory, *arguments, method='sogclr', fault='none', fresh=False, **environment):
    """`fresh`: in a process that shares nothing with the others, not even the seed of hashes."""
    command = 'tests.processes.child', fault, 'train', f'--config={TINY}:{method}'
    return subprocess.Popen(
      [
        *([sys.executable, '-m', *command] if fresh else self._zygote.command(*command)),
        f'--workdir={directory}',
        *arguments,
      ],
      cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def __call__(self, directory, *arguments, code=0, **options):
    """(stdout, stderr) of a command that must end with this code."""
    process = self.start(directory, *arguments, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (process.returncode, out, err)
    return out, err


@pytest.fixture(scope='session')
def run(zygote):
  return Runner(zygote)


@pytest.fixture(scope='session')
def reference(run, tmp_path_factory):
  """method -> workdir of a run that nothing interrupted."""
  made = {}

  def of(method):
    if method not in made:
      made[method] = tmp_path_factory.mktemp(f'reference_{method}')
      run(made[method], method=method)
    return made[method]

  return of


def assert_same_run(actual, expected, method):
  """Both whole, and the same to the bit."""
  arrays = state_of(actual)
  assert arrays['step'] == STEPS
  assert {'params', 'opt_state'} <= {k.partition('/')[0] for k in arrays}
  assert any('log_u' in k for k in arrays) == (method in TABLES)
  assert_same_to_the_bit(actual, expected)


def stored_steps(directory):
  return sorted(int(p.name) for p in (directory / 'checkpoints').iterdir() if p.name.isdigit())


@pytest.mark.slow
@ONE_WORKER
def test_the_reference_has_what_the_comparisons_need(reference):
  directory = reference('sogclr')
  logged = rows_without_clock(directory)
  assert [r['step'] for r in logged if 'loss' in r] == [4, 8, 12, 16, 20, 22]
  assert [r['step'] for r in logged if 'rankme' in r] == [9, 18, 22]
  assert stored_steps(directory) == [18, 22]
  arrays = state_of(directory)
  assert arrays['step'] == STEPS
  log_u = next(v for k, v in arrays.items() if 'log_u' in k)
  assert np.isfinite(log_u).sum() == STEPS * 64  # one visit of each example of the epoch
  assert len(results_of(directory)) == 1


@pytest.mark.slow
@ONE_WORKER
def test_killed_preempted_and_finished(run, reference, tmp_path):
  """SIGKILL while a checkpoint is written, SIGTERM off every grid, the end, and once more."""
  run(tmp_path, fault='kill_in_write', code=-signal.SIGKILL)
  out, err = run(tmp_path, fault='sigterm', code=75)
  resumed = int(out.split('at step ')[1].split()[0])
  assert resumed in (6, 12) and f'resumed {tmp_path} at step {resumed}' in out
  stopped = resumed + 3
  said = f'stopped by SIGTERM at step {stopped} of 22, checkpoint saved: run the same command to '
  assert said in err
  assert 'Traceback' not in err
  assert stored_steps(tmp_path)[-1] == stopped
  out, _ = run(tmp_path)
  assert f'resumed {tmp_path} at step {stopped}' in out
  assert_same_run(tmp_path, reference('sogclr'), 'sogclr')
  before = {p.name for p in (tmp_path / 'checkpoints').iterdir()}
  again, err = run(tmp_path)
  assert 'at step 22' in again and 'knn' in again and 'step 4/22' not in err
  assert {p.name for p in (tmp_path / 'checkpoints').iterdir()} == before
  assert_same_run(tmp_path, reference('sogclr'), 'sogclr')


@pytest.mark.parametrize('method', weekly_but(SKELETONS, NAMES))
def test_killed_and_resumed(run, reference, tmp_path, method):
  """Parameters, state and optimizer of a method are those of a run that was never killed."""
  run(tmp_path, method=method, fault='kill_in_step', code=-signal.SIGKILL)
  out, _ = run(tmp_path, method=method)
  assert int(out.split(f'resumed {tmp_path} at step ')[1].split()[0]) in (6, 12)
  assert_same_run(tmp_path, reference(method), method)


KILLS = (
  'kill_first_step',
  'kill_before_save',
  'kill_in_write',
  'kill_in_evaluation',
  'kill_before_results',
)
# Before a save a kill loses what one in the write loses, in the first step what one in another
# (`test_killed_and_resumed`), and before the results what one between two results does.
KILLS_OFTEN = ('kill_in_write', 'kill_in_evaluation')


@pytest.mark.parametrize('fault', weekly_but(KILLS_OFTEN, KILLS))
@pytest.mark.parametrize('method', weekly_but(['sogclr'], SKELETONS))
def test_killed_at_a_moment(run, reference, tmp_path, method, fault):
  run(tmp_path, method=method, fault=fault, code=-signal.SIGKILL)
  out, _ = run(tmp_path, method=method)
  assert ('resumed' in out) == (fault != 'kill_first_step')
  assert_same_run(tmp_path, reference(method), method)


@pytest.mark.weekly
@pytest.mark.parametrize('seed', range(5))
def test_killed_from_outside_at_random_moments(run, reference, tmp_path, seed):
  """Three times, wherever it hits: compiling, training, saving, evaluating or ending."""
  chance = random.Random(seed)
  for _ in range(3):
    process = run.start(tmp_path)
    started = time.monotonic()
    while not (tmp_path / 'metrics').exists() and time.monotonic() < started + 120:
      time.sleep(0.05)
    time.sleep(chance.uniform(0, 3))
    process.kill()
    process.communicate()
  run(tmp_path)
  assert_same_run(tmp_path, reference('sogclr'), 'sogclr')


@pytest.mark.weekly
def test_processes_that_compile_for_themselves_agree(run, tmp_path):
  optimized = {'JAX_DISABLE_MOST_OPTIMIZATIONS': '0', 'XLA_FLAGS': ''}
  own = {'fresh': True, 'JAX_ENABLE_COMPILATION_CACHE': 'false', **optimized}
  run(tmp_path / 'a', **own)
  run(tmp_path / 'b', fault='kill_in_step', code=-signal.SIGKILL, **own)
  run(tmp_path / 'b', **own)
  assert_same_run(tmp_path / 'b', tmp_path / 'a', 'sogclr')


@pytest.mark.slow
def test_ctrl_c(run, reference, tmp_path):
  _, err = run(tmp_path, fault='ctrl_c', code=130)
  assert 'stopped by Ctrl-C at step 7 of 22, checkpoint saved' in err and 'Traceback' not in err
  assert stored_steps(tmp_path) == [6, 7]
  run(tmp_path)
  assert_same_run(tmp_path, reference('sogclr'), 'sogclr')


@pytest.mark.weekly
@pytest.mark.parametrize(
  ('fault', 'good', 'left'),
  [
    ('ctrl_c_twice_in_write', 6, '12.orbax-checkpoint-tmp'),
    ('sigterm_ctrl_c_in_removal', 12, '.removed'),
  ],
)
def test_a_second_signal_while_a_checkpoint_is_written_or_removed(
  run, reference, tmp_path, fault, good, left
):
  """The process ends at once; what it leaves behind is cleared by the next start."""
  folder, last = tmp_path / 'checkpoints', '--config.keep_last=1'
  _, err = run(tmp_path, last, fault=fault, code=130)
  assert 'stopped by Ctrl-C' in err and 'Traceback' not in err
  assert {path.name for path in folder.iterdir()} == {str(good), left}
  out, _ = run(tmp_path, last)
  assert f'at step {good}' in out
  assert [path.name for path in folder.iterdir()] == ['22']
  assert_same_run(tmp_path, reference('sogclr'), 'sogclr')


@pytest.mark.parametrize(
  'fault', weekly_but(['sigterm_in_results'], ['sigterm_at_end', 'sigterm_in_results'])
)
def test_sigterm_after_the_last_step(run, reference, tmp_path, fault):
  """The evaluation can take long: it is left for the next start."""
  _, err = run(tmp_path, fault=fault, code=75)
  assert 'SIGTERM' in err and 'Traceback' not in err
  # A result that was being written at the signal is whole, or not there.
  assert results_of(tmp_path) in ([], results_of(reference('sogclr')))
  run(tmp_path)
  assert_same_run(tmp_path, reference('sogclr'), 'sogclr')


@pytest.mark.weekly
@pytest.mark.parametrize(
  ('fault', 'step'), [('long_step', 7), ('long_evaluation', 18), ('long_last_evaluation', 22)]
)
def test_what_lasts_long_is_left_for_the_next_start(run, reference, tmp_path, fault, step):
  """A compilation that is not the first one, and evaluations: nothing of the training is lost."""
  _, err = run(tmp_path, fault=fault, code=75)
  assert 'stopped by SIGTERM' in err and 'Traceback' not in err
  assert stored_steps(tmp_path)[-1] == step
  out, _ = run(tmp_path)
  assert f'resumed {tmp_path} at step {step}' in out
  assert_same_run(tmp_path, reference('sogclr'), 'sogclr')


@pytest.mark.slow
def test_killed_between_two_results(run, tmp_path):
  """The records of one evaluation are completed, and none is there twice."""
  kinds = '--config.eval.features=("trained","pixels")'
  run(tmp_path, kinds, fault='kill_in_results', code=-signal.SIGKILL)
  assert len(results_of(tmp_path)) == 1
  run(tmp_path, kinds)
  run(tmp_path, kinds)
  assert [r[1] for r in results_of(tmp_path)] == ['trained', 'pixels']


@pytest.mark.slow
def test_extending_equals_not_stopping(run, reference, tmp_path):
  run(tmp_path, '--config.stop_at_epoch=0.5')
  assert state_of(tmp_path)['step'] == 11
  run(tmp_path)
  extra = [r for r in rows_without_clock(tmp_path) if r['step'] == 11]
  assert len(extra) == 1  # the end of the first part was logged and evaluated, off the grid
  first = results_of(tmp_path)[0]
  assert first[3] == 11
  expected = reference('sogclr')
  assert [r for r in rows_without_clock(tmp_path) if r['step'] != 11] == rows_without_clock(
    expected
  )
  arrays = state_of(tmp_path)
  assert arrays['step'] == STEPS
  assert all(arrays[k].tobytes() == v.tobytes() for k, v in state_of(expected).items())


@pytest.mark.slow
def test_watchdog_ends_a_hung_run(run, tmp_path):
  _, err = run(tmp_path, '--config.watchdog_seconds=5', fault='hang', code=70)
  assert 'watchdog: no step ended for 5 s' in err
  assert 'most recent call first' in err and 'in wrapped' in err  # where it hangs


@pytest.mark.parametrize('what', weekly_but(['metrics'], ['checkpoints', 'metrics', 'results']))
def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_room(run, reference, tmp_path, what):
  _, err = run(tmp_path, fault=f'disk_full_of_{what}', code=74)
  last = err.strip().splitlines()[-1]  # Orbax logs what it met before it
  assert (
    last.startswith('clr-jax: ') and 'free disk space; run the same command to resume' in last
  ), err
  run(tmp_path)
  assert_same_run(tmp_path, reference('sogclr'), 'sogclr')


@pytest.mark.slow
def test_out_of_memory_is_one_sentence(run, tmp_path):
  _, err = run(tmp_path, '--config.progress=False', fault='out_of_memory', code=1)
  *data, header, last = err.strip().splitlines()
  assert last == (
    'clr-jax: out of device memory: lower batch_size, model.width or the image size, or set '
    'precision=bfloat16'
  )
  assert [line.partition(':')[0] for line in data] == ['training images', 'test images']
  assert header.startswith('sogclr with resnet_tiny on digits: ')


@pytest.mark.slow
def test_batch_that_eight_devices_cannot_share(run, tmp_path):
  """The number of devices is fixed when JAX starts."""
  eight = {'XLA_FLAGS': '--xla_force_host_platform_device_count=8'}
  _, err = run(tmp_path / 'new', '--config.batch_size=60', code=2, **eight)
  assert err.count('\n') == 1 and 'batch_size=60' in err and 'a multiple of 8' in err
  assert not (tmp_path / 'new').exists()


@pytest.mark.slow
@ONE_WORKER
def test_records_are_valid_json(reference):
  for path in (reference('sogclr') / 'results').glob('*.json'):
    record = json.loads(path.read_text())
    assert record['step'] == STEPS and record['features'] == 'trained'
