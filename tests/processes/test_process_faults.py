"""One of two processes meets a fault: both end, and the run goes on as if it had not happened."""

import shutil
import signal

import pytest

from tests.processes.launching import (
  NO_TEST,
  assert_same_to_the_bit,
  ended,
  start_training,
)

pytestmark = pytest.mark.xdist_group('process_faults')  # one whole run
slow, weekly = pytest.mark.slow, pytest.mark.weekly
SHORT = '--config.stop_at_epoch=0.64', '--config.eval_every=0', NO_TEST


@pytest.fixture(scope='module')
def whole(zygote, tmp_path_factory):
  """A run of two processes that nothing interrupted."""
  directory = tmp_path_factory.mktemp('whole')
  program = zygote.script(tmp_path_factory.mktemp('bin'), 'clr_jax')
  code, output = ended(start_training(program, 2, directory, *SHORT))
  assert code == 0, output
  return directory


GONE = 'clr-jax: another process of this run is gone'
FAULTS = {  # -> the launcher's code, what the processes say, any of these
  # Process 0 has the coordination service with it: JAX may abort the others before they speak.
  'kill_0': (128 + signal.SIGKILL, (f'[1] {GONE}', 'another task died')),
  'kill_1': (128 + signal.SIGKILL, (f'[0] {GONE}',)),
  'stop_1': (70, ('[0] watchdog: no step ended for 10 s',)),
  'not_a_number': (1, ('the last good checkpoint is step 6',)),
  'disk_full_in_0': (74, (': free disk space; run the same command to resume',)),
}


# The other suites inject the weekly faults into runs of one process.
OFTEN = ('kill_0',)


@pytest.mark.parametrize(
  'fault', [pytest.param(f, marks=slow if f in OFTEN else weekly) for f in FAULTS]
)
def test_a_fault_in_one_of_two_ends_both_and_the_run_goes_on_to_the_bit(
  zygote, whole, tmp_path, fault
):
  code, sentences = FAULTS[fault]
  run = tmp_path / 'run'
  faulty = zygote.script(tmp_path, 'tests.processes.child', fault)
  patience = '--config.watchdog_seconds=10' if fault == 'stop_1' else '--config.progress=True'
  found, output = ended(start_training(faulty, 2, run, *SHORT, patience))
  assert found == code, output
  assert any(sentence in output for sentence in sentences), output
  code, output = ended(start_training(zygote.script(tmp_path, 'clr_jax'), 2, run, *SHORT))
  assert code == 0 and f'resumed {run} at step 6' in output, output
  assert_same_to_the_bit(run, whole)


@slow
def test_sigterm_to_one_of_two_outside_of_the_loop_ends_both(zygote, whole, tmp_path):
  """One works alone when it comes, the other waits for it in the evaluation."""
  run = tmp_path / 'run'
  shutil.copytree(whole, run)
  faulty = zygote.script(tmp_path, 'tests.processes.child', 'sigterm_1_in_evaluation')
  code, output = ended(start_training(faulty, 2, run, *SHORT))
  assert code == 75, output
  for i in range(2):
    assert f'[{i}] clr-jax: stopped by SIGTERM: run the same command to resume' in output, output
  assert 'Traceback' not in output


@pytest.mark.parametrize(
  'damage', [pytest.param('cut_off', marks=weekly), pytest.param('unread_in_1', marks=slow)]
)
def test_two_processes_go_back_to_the_same_good_checkpoint(zygote, whole, tmp_path, damage):
  """Also where only one of them meets the damage, in the part that it reads."""
  run = tmp_path / 'run'
  shutil.copytree(whole, run)
  assert sorted(p.name for p in (run / 'checkpoints').iterdir()) == ['12', '14']
  if damage == 'cut_off':
    for file in (run / 'checkpoints/14/state').rglob('d/*'):
      file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    damage = 'none'
  code, output = ended(
    start_training(zygote.script(tmp_path, 'tests.processes.child', damage), 2, run, *SHORT)
  )
  assert code == 0, output
  assert 'skipped damaged checkpoint 14 (' in output and f'resumed {run} at step 12' in output
  assert_same_to_the_bit(run, whole)


@weekly
def test_a_test_image_that_one_of_two_cannot_read_loses_no_training(zygote, tmp_path):
  run, options = tmp_path / 'run', ('--config.stop_at_epoch=0.9', '--config.checkpoint_every=1')
  faulty = zygote.script(tmp_path, 'tests.processes.child', 'unreadable_in_1')
  code, output = ended(start_training(faulty, 2, run, *options))
  assert code == 2 and 'Traceback' not in output, output
  said = sorted(line for line in output.splitlines() if 'clr-jax:' in line)
  assert said == [
    '[0] clr-jax: exiting with code 2 because process 1 did: see its message',
    '[1] clr-jax: cannot read the image x.png',
  ]
  code, output = ended(start_training(zygote.script(tmp_path, 'clr_jax'), 2, run, *options))
  assert code == 0 and f'resumed {run} at step 18' in output, output
