"""The processes of a sweep, with short programs in place of training."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from clr_jax.cli.sweep.children import Job, exit_code, run_jobs
from clr_jax.cli.sweep.slots import Slot

ROOT = pathlib.Path(__file__).parents[3]
SHELL = '/bin/sh', '-c'


def run(commands, slots, folder):
  """(names in the order of their starts, codes by name) of shell commands."""
  starts, codes = [], {}
  jobs = [Job(name, lambda _, c=c: [*SHELL, c], folder / name) for name, c in commands.items()]
  done = run_jobs(
    jobs,
    slots,
    started=lambda job: starts.append(job.name),
    ended=lambda end: codes.update({end.job.name: end.code}),
  )
  assert done
  return starts, codes


def test_each_slot_has_one_job_at_a_time(tmp_path):
  busy = 'mkdir $CUDA_VISIBLE_DEVICES || exit 9; sleep 0.2; rmdir $CUDA_VISIBLE_DEVICES; echo ok'
  commands = {f'j{i}': f'cd {tmp_path}; {busy}' for i in range(5)}
  slots = [Slot({'CUDA_VISIBLE_DEVICES': f'gpu{i}'}) for i in range(2)]
  start = time.monotonic()
  starts, codes = run(commands, slots, tmp_path)
  assert starts == list(commands) and set(codes.values()) == {0}
  assert time.monotonic() - start > 3 * 0.2
  assert [(tmp_path / name).read_text() for name in commands] == ['ok\n'] * 5


def test_a_failure_does_not_stop_the_others(tmp_path):
  commands = {'a': 'exit 1', 'b': 'kill -9 $$', 'c': 'exit 0'}
  _, codes = run(commands, [Slot()], tmp_path)
  assert codes == {'a': 1, 'b': -9, 'c': 0}


@pytest.mark.parametrize(
  ('codes', 'code'),
  [([0, 0], 0), ([0, 1, 2], 1), ([1, 75, 0], 75), ([74, 130], 130), ([], 0)],
)
def test_exit_codes(codes, code):
  assert exit_code({str(i): c for i, c in enumerate(codes)}) == code


# A sweep of two jobs at once, each of which writes how it was ended.
PROGRAM = """
import pathlib, signal, sys
from clr_jax.cli.sweep.children import Job, run_jobs
from clr_jax.cli.sweep.slots import Slot
from clr_jax.core.signals import StopSignals

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup ignore it
folder = pathlib.Path(sys.argv[1])
child = (
  'import os, pathlib, signal, sys, time; folder, name = map(pathlib.Path, sys.argv[1:]);'
  'end = lambda n, _: (time.sleep(0.3), (folder / f"{name}-{n}").touch(), os._exit(75));'
  '[signal.signal(n, end) for n in (2, 15)]; (folder / f"{name}-up").touch(); time.sleep(60)'
)
jobs = [
  Job(n, lambda slot, n=n: [sys.executable, '-c', child, str(folder), n], folder / f'{n}.log')
  for n in 'abc'
]
with StopSignals(ignored_after=True) as stop:
  said = lambda what: print(what, flush=True)
  done = run_jobs(jobs, [Slot(), Slot()], started=said, ended=said)
  assert not done
  stop.claim()
"""


@pytest.mark.parametrize(
  ('number', 'passed_on', 'code'),
  [(signal.SIGTERM, 15, 75), (signal.SIGHUP, 15, 75), (signal.SIGINT, 2, 130)],
)
def test_a_request_to_stop_ends_the_jobs_and_then_the_sweep(tmp_path, number, passed_on, code):
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  process = subprocess.Popen(
    [sys.executable, '-c', PROGRAM, tmp_path], env=environment, stderr=subprocess.PIPE, text=True
  )
  deadline = time.monotonic() + 60
  while not all((tmp_path / f'{n}-up').exists() for n in 'ab') and time.monotonic() < deadline:
    time.sleep(0.02)
  process.send_signal(number)
  _, err = process.communicate(timeout=60)
  assert process.returncode == code, err
  assert err.count('\n') == 1 and 'run the same command to resume' in err
  assert {p.name for p in tmp_path.glob('*-*')} == {
    *('a-up', 'b-up', f'a-{passed_on}', f'b-{passed_on}')
  }


CHILD = """
import sys, time
from clr_jax.cli.sweep import child

child.cli.main = lambda: (print(sys.argv, flush=True), time.sleep(60))
child.main()
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='prctl is of Linux')
def test_a_job_ends_with_its_sweep(tmp_path):
  """The sweep is killed: its job gets SIGTERM."""
  middle = (
    'import os, subprocess, sys;'
    'p = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid()), "0", "train"]);'
    'print(p.pid, flush=True); p.wait()'
  )
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  sweep = subprocess.Popen(
    [sys.executable, '-c', middle, CHILD], env=environment, stdout=subprocess.PIPE, text=True
  )
  pid = int(sweep.stdout.readline())
  assert sweep.stdout.readline() == "['clr-jax', 'train']\n"
  assert os.sched_getaffinity(pid) == {0}
  sweep.kill()
  sweep.wait()
  deadline = time.monotonic() + 30
  while pathlib.Path(f'/proc/{pid}').exists() and time.monotonic() < deadline:
    if 'Z' in pathlib.Path(f'/proc/{pid}/stat').read_text().split(')')[1][:3]:
      break  # nobody has asked for its exit code yet
    time.sleep(0.05)
  else:
    assert time.monotonic() < deadline
  sweep.stdout.close()
