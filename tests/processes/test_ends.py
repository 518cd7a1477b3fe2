"""Real processes that are asked to stop, or lose their screen or their parent.

The processes start fresh, as a user's do: signals come while they import, too.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.processes.launching import ROOT, TINY, assert_same_to_the_bit, results_of, until_saved

CODES = {signal.SIGTERM: 75, signal.SIGHUP: 75, signal.SIGINT: 130}
SHARED = pathlib.Path('/dev/shm')
STREAMED = '--config.data.mode=streamed', '--config.data.workers=2', '--config.num_epochs=5000'
pytestmark = pytest.mark.slow

# A test that was started in the background may have been told to ignore them.
AS_IN_A_TERMINAL = """
import os, signal, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
  signal.signal(number, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, '-m', 'clr_jax', *sys.argv[1:]])
"""


def start(directory, *options, **streams):
  """`clr-jax train` of a tiny run, in a process group of its own."""
  command = 'train', f'--config={TINY}', f'--workdir={directory}', *options
  return subprocess.Popen(
    [sys.executable, '-c', AS_IN_A_TERMINAL, *command],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    **{'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **streams},
    text=True,
    start_new_session=True,
  )


def answers(process):
  """True if the entry point has been reached: SIGTERM is handled."""
  status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
  caught = int(status.partition('SigCgt:')[2].split()[0], 16)
  return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.fixture(scope='module')
def reference(zygote, tmp_path_factory):
  """A run that nothing interrupted."""
  directory = tmp_path_factory.mktemp('reference')
  command = zygote.command('clr_jax', 'train', f'--config={TINY}', f'--workdir={directory}')
  subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
  return directory


@pytest.fixture(scope='module')
def duration(reference, tmp_path_factory):
  """Seconds of a run from the entry point to its end, with compiled programs at hand."""
  process = start(tmp_path_factory.mktemp('duration') / 'run')
  while process.poll() is None and not answers(process):
    time.sleep(0.001)
  began = time.monotonic()
  process.communicate(timeout=300)
  return time.monotonic() - began


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize(
  ('seed', 'moments'), [(0, 3), pytest.param(1, 20, marks=pytest.mark.weekly)]
)
def test_signals_at_random_moments(reference, duration, tmp_path, seed, moments):
  """From the imports to the last result: one line, 75 or 130, and the same command resumes."""
  chance = random.Random(seed)
  answered, runs = 0, 0
  while answered < moments:
    number = chance.choice(list(CODES))
    # The first one comes with the first line of the program.
    seconds = chance.uniform(0, 0.9 * duration) if answered else 0.0
    process = start(tmp_path / str(runs))
    while process.poll() is None and not answers(process):
      time.sleep(0.001)
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
      time.sleep(0.01)
    process.send_signal(number)
    sent = time.monotonic()
    out, err = process.communicate(timeout=120)
    if process.returncode == 0:  # it was faster
      assert_same_to_the_bit(tmp_path / str(runs), reference)
      runs += 1
      continue
    answered += 1
    assert process.returncode == CODES[number], (number, seconds, process.returncode, out, err)
    assert time.monotonic() - sent < 60  # 10 where nothing else runs
    assert 'Traceback' not in err and 'stopped by' in err.strip().splitlines()[-1], err
  process = start(tmp_path / str(runs))
  out, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  assert_same_to_the_bit(tmp_path / str(runs), reference)


def children(process):
  found = subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True, text=True)
  return [pathlib.Path(f'/proc/{pid}') for pid in found.stdout.split()]


def vanish(things):
  """Waits until none of these files is there."""
  deadline = time.monotonic() + 60
  while any(thing.exists() for thing in things) and time.monotonic() < deadline:
    time.sleep(0.1)
  return not any(thing.exists() for thing in things)


@pytest.mark.skipif(not SHARED.exists(), reason='no /dev/shm')
@pytest.mark.parametrize('how', ['killed', pytest.param('terminal', marks=pytest.mark.weekly)])
def test_readers_and_their_memory_end_with_the_main_process(tmp_path, how):
  """A SIGKILL of the main process; or Ctrl-C, which a terminal sends to the readers, too."""
  before = {*SHARED.iterdir()}
  process = start(tmp_path, *STREAMED, '--config.schedule.warmup_epochs=1')
  until_saved(process, tmp_path)
  own, segments = children(process), {*SHARED.iterdir()} - before
  assert len(own) >= 2 and segments
  if how == 'killed':
    process.kill()
  else:
    os.killpg(process.pid, signal.SIGINT)
  _, err = process.communicate(timeout=120)
  assert process.returncode == (-signal.SIGKILL if how == 'killed' else 130), err
  assert vanish(own) and vanish(segments)
  assert 'Traceback' not in err and 'resource_tracker' not in err
  assert ('at step' in err) == (how == 'terminal'), err


def test_training_goes_on_without_its_screen(zygote, reference, tmp_path):
  """`clr-jax train ... 2>&1 | true`, and once more on the finished run."""
  command = zygote.command('clr_jax', 'train', f'--config={TINY}', f'--workdir={tmp_path}')
  for _ in range(2):
    process = subprocess.Popen(
      command,
      cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert results_of(tmp_path) == results_of(reference)
  assert_same_to_the_bit(tmp_path, reference)
