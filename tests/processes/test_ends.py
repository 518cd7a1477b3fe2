"""Real processes that are asked to stop, or lose their screen or their parent.

The processes start fresh, as a user's do: signals come while they import, too.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.processes.launching import (
  ROOT,
  TINY,
  assert_same_to_the_bit,
  results_of,
  state_of,
  until_saved,
)

# Signals to send, and the exit code; a second Ctrl-C may come when the process has ended.
STOPS = (
  ([signal.SIGTERM], 75),
  ([signal.SIGHUP], 75),
  ([signal.SIGINT], 130),
  ([signal.SIGINT, signal.SIGINT], 130),
)
SHARED = pathlib.Path('/dev/shm')
STREAMED = '--config.data.mode=streamed', '--config.data.workers=2', '--config.num_epochs=5000'
pytestmark = pytest.mark.slow

# A test that was started in the background may have been told to ignore them.
AS_IN_A_TERMINAL = """
import os, signal, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
  signal.signal(number, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])
"""


def start(directory, *options, **streams):
  """`clr-jax train` of a tiny run, in a process group of its own."""
  return begin('train', f'--config={TINY}', f'--workdir={directory}', *options, **streams)


def begin(*command, module=('clr_jax',), **streams):
  """`clr-jax COMMAND`, in a process group of its own."""
  return subprocess.Popen(
    [sys.executable, '-c', AS_IN_A_TERMINAL, *module, *map(str, command)],
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


def until_it_answers(process):
  while process.poll() is None and not answers(process):
    time.sleep(0.001)


def seconds_of(process):
  """Waits for the end; seconds from the entry point on."""
  until_it_answers(process)
  began = time.monotonic()
  _, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  return time.monotonic() - began


@pytest.fixture(scope='module')
def duration(reference, tmp_path_factory):
  """Seconds of a run, with compiled programs at hand."""
  return seconds_of(start(tmp_path_factory.mktemp('duration') / 'run'))


def stopped(process, chance, seconds):
  """Asks a process to stop so many seconds after its start; False if it ended before."""
  numbers, code = chance.choice(STOPS)
  until_it_answers(process)
  deadline = time.monotonic() + seconds
  while process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.01)
  for number in numbers:
    process.send_signal(number)
    sent = time.monotonic()
    time.sleep(0.2 * (len(numbers) > 1))
  out, err = process.communicate(timeout=600)
  if process.returncode == 0:
    return False
  assert process.returncode == code, (numbers, seconds, process.returncode, out, err)
  assert time.monotonic() - sent < 120  # 10 where nothing else runs
  assert 'Traceback' not in out + err and 'stopped by' in err.strip().splitlines()[-1], err
  return True


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize(
  ('seed', 'moments'), [(0, 3), pytest.param(1, 20, marks=pytest.mark.weekly)]
)
def test_signals_at_random_moments(reference, duration, tmp_path, seed, moments):
  """From the imports to the last result: one line, 75 or 130, and the same command resumes."""
  chance = random.Random(seed)
  answered, runs = 0, 0
  while answered < moments:
    # The first one comes with the first line of the program.
    seconds = chance.uniform(0, 0.9 * duration) if answered else 0.0
    if stopped(start(tmp_path / str(runs)), chance, seconds):
      answered += 1
    else:  # it was faster than the measured run, beside which more was computed
      duration *= 0.8
      assert_same_to_the_bit(tmp_path / str(runs), reference)
      runs += 1
  process = start(tmp_path / str(runs))
  _, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  assert_same_to_the_bit(tmp_path / str(runs), reference)


def files_of(directory):
  return {p.relative_to(directory): p.read_bytes() for p in directory.rglob('*') if p.is_file()}


def report_of(directory):
  """The files of a report, and its contents without the time when it was made."""
  contents = json.loads((directory / 'report.json').read_text())
  return sorted(files_of(directory)), {**contents, 'created': None}


def runs_of(directory):
  """The states and results of the runs of a sweep, and the values in its ledger."""
  ledger = directory / 'ledger.jsonl'
  lines = ledger.read_text().splitlines() if ledger.exists() else []
  runs = sorted(path.parent for path in directory.glob('*/config.json'))
  states = {run.name: {k: v.tobytes() for k, v in state_of(run).items()} for run in runs}
  return states, [results_of(run) for run in runs], [json.loads(line)['value'] for line in lines]


KNN = 'evaluate', 'knn', '--params.k=3,4,6,7', '--features=trained,untrained,pixels'
GRID = 'config.method.temperature=0.2,0.5'
SWEEP = 'sweep', f'--config={TINY}:simclr', '--grid', GRID, '--jobs=1'
TABLE = 'reproduce', 'tiny', '--scale=small', '--jobs=1'
# arguments, the option of the place, what is compared there, and how often it is interrupted
COMMANDS = {
  'evaluate': (KNN, '--workdir={}', results_of, 20),
  'inspect': (('inspect', 'embedding', '--workdir={run}'), '--out={}/embedding.png', files_of, 6),
  'report': (('report', '--workdir={run}'), '--out={}/report.html', report_of, 6),
  'export': (('export', '--workdir={run}'), '--out={}/torchvision', files_of, 6),
  'sweep': (SWEEP, '--workdir={}', runs_of, 6),
  'reproduce': (TABLE, '--workdir={}', runs_of, 6),
  'plan': (('plan', f'--config={TINY}', '--target=cpu:2'), '', files_of, 6),
  'bench': (('bench', f'--config={TINY}', '--repeats=2', '--steps=3'), '', files_of, 6),
}


@pytest.mark.weekly
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('name', COMMANDS)
def test_signals_at_random_moments_of_other_commands(reference, tmp_path, name):
  """The same command leaves in the end the files of one that nothing interrupted."""
  command, place, found, moments = COMMANDS[name]
  command = [argument.format(run=reference) for argument in command]
  module = ('tests.processes.child', 'one_table') if name == 'reproduce' else ('clr_jax',)

  def begin_in(directory):
    if name == 'evaluate' and not directory.exists():
      shutil.copytree(reference, directory)
    directory.mkdir(exist_ok=True)
    options = [place.format(directory)] if place else []
    return begin(*command, *options, module=module)

  whole = tmp_path / 'whole'
  begin_in(whole).communicate(timeout=600)  # compiles the programs
  shutil.rmtree(whole)
  duration, chance = seconds_of(begin_in(whole)), random.Random(moments)
  answered, runs = 0, 0
  while answered < moments:
    if stopped(begin_in(tmp_path / str(runs)), chance, chance.uniform(0, 0.9 * duration)):
      answered += 1
    else:
      duration *= 0.8
      assert found(tmp_path / str(runs)) == found(whole)
      runs += 1
  process = begin_in(tmp_path / str(runs))
  _, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  assert found(tmp_path / str(runs)) == found(whole)


@pytest.mark.weekly
def test_a_hangup_below_nohup_stops_nothing(reference, tmp_path):
  train = ('-m', 'clr_jax', 'train', f'--config={TINY}', f'--workdir={tmp_path}')
  process = subprocess.Popen(
    ['nohup', sys.executable, *train],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  while process.poll() is None:
    time.sleep(0.5)
    process.send_signal(signal.SIGHUP)
  assert process.returncode == 0
  assert_same_to_the_bit(tmp_path, reference)


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
  _, err = process.communicate(timeout=600)
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
