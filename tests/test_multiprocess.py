"""Two real processes on loopback train what one trains, stop together and go on."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from clr_jax import metrics, workdir
from clr_jax import results as results_lib
from tests.test_launch import SRUN

ROOT = pathlib.Path(__file__).parent.parent
pytestmark = pytest.mark.slow
NOT_COMPARED = {'time', 'samples_per_second', 'data_wait_share', 'online_seconds'}


def _script(folder, module):
  path = folder / module.replace(' ', '_')
  path.write_text(f'#!/bin/bash\nexec {sys.executable} -m {module} "$@"\n')
  path.chmod(0o755)
  return str(path)


@pytest.fixture(scope='module')
def program(tmp_path_factory):
  return _script(tmp_path_factory.mktemp('bin'), 'clr_jax')


def _start(program, processes, directory, *options, method='sogclr'):
  # At the config's own rate training amplifies rounding a thousandfold within 20 steps, in float32
  # only: from the same views in float64, 1 and 2 devices agree to 2e-14.
  rate = '--config.optimizer.learning_rate=0.01'
  config = f'--config={ROOT}/tests/tiny.py:{method}', f'--workdir={directory}', rate
  return _launch(program, processes, 'train', *config, *options)


def _launch(program, processes, *arguments):
  launcher = [str(ROOT / 'launch/local_multiprocess.sh'), str(processes)] if processes > 1 else []
  command = [*(launcher or [program]), *arguments]
  env = {**os.environ, 'CLR_JAX': program, 'PYTHON': sys.executable, 'JAX_PLATFORMS': 'cpu'}
  return subprocess.Popen(
    command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )


def _end(process):
  output = process.communicate(timeout=400)[0]
  return process.returncode, output


def _rows(directory):
  return metrics.read_metrics(workdir.Workdir(directory))


def _assert_same(rows, expected):
  assert [r['step'] for r in rows] == [r['step'] for r in expected]
  for row, other in zip(rows, expected, strict=True):
    for name in other.keys() - NOT_COMPARED:
      # Single predictions may flip; all else is rounding.
      tolerance = {'abs': 0.02} if 'top1' in name else {'rel': 1e-4, 'abs': 1e-6}
      assert row[name] == pytest.approx(other[name], **tolerance), (row['step'], name)


def test_two_processes_equal_one_and_resume(program, tmp_path):
  code, output = _end(_start(program, 1, tmp_path / 'one'))
  assert code == 0, output
  # The first half, then the rest of the same run.
  code, output = _end(_start(program, 2, tmp_path / 'two', '--config.stop_at_epoch=0.6'))
  assert code == 0, output
  code, output = _end(_start(program, 2, tmp_path / 'two'))
  assert code == 0, output
  resumed = [line for line in output.splitlines() if 'resumed' in line]
  assert len(resumed) == 1 and resumed[0].startswith('[0]'), output  # process 0 speaks
  expected = _rows(tmp_path / 'one')
  end = round(0.6 * 22)  # the row of the end of the first half is off the grid
  _assert_same([r for r in _rows(tmp_path / 'two') if r['step'] != end], expected)
  one, two = (results_lib.read_results(workdir.Workdir(tmp_path / n)) for n in ('one', 'two'))
  assert one[0]['device'] == '1 x cpu' and two[-1]['device'] == '2 x cpu'
  at_the_end = [r for r in two if r['step'] == 22]  # each number once: process 1 writes nothing
  assert [r['metric'] for r in at_the_end] == [r['metric'] for r in one]
  assert at_the_end[0]['value'] == pytest.approx(one[0]['value'], abs=0.02)
  # A process that sees files late does what the first one does; on its own it would wait forever.
  late = _script(tmp_path, 'tests.child late')
  code, output = _end(_start(late, 2, tmp_path / 'two'))
  assert code == 0 and 'at step 22' in output, output
  assert results_lib.read_results(workdir.Workdir(tmp_path / 'two')) == two
  code, output = _end(_launch(late, 2, 'evaluate', 'knn', '--again', f'--workdir={tmp_path}/two'))
  assert code == 0, output
  *before, last = results_lib.read_results(workdir.Workdir(tmp_path / 'two'))
  assert before == two and last['step'] == 22


@pytest.mark.parametrize('method', ['simclr', 'moco', 'byol', 'swav', 'vicreg'])
def test_methods_train_as_in_one_process(program, tmp_path, method):
  short = '--config.stop_at_epoch=0.37', '--config.eval_every=0'
  for processes in (1, 2):
    code, output = _end(
      _start(program, processes, tmp_path / str(processes), *short, method=method)
    )
    assert code == 0, output
  one, two = (_rows(tmp_path / str(n)) for n in (1, 2))
  assert [r['step'] for r in one] == [4, 8]
  _assert_same(two, one)


def test_one_of_two_is_killed_and_the_run_goes_on_to_the_bit(program, tmp_path):
  short = '--config.stop_at_epoch=0.64', '--config.eval_every=0'
  code, output = _end(_start(program, 2, tmp_path / 'whole', *short))
  assert code == 0, output
  run = tmp_path / 'run'
  # The second process kills itself before its tenth step.
  dying = _script(tmp_path, 'tests.child kill_second')
  code, output = _end(_start(dying, 2, run, *short))
  assert code == 128 + signal.SIGKILL, output
  code, output = _end(_start(program, 2, run, *short))
  assert code == 0 and f'resumed {run} at step 6' in output, output
  rows, expected = (_rows(tmp_path / name) for name in ('run', 'whole'))
  kept = [{k: v for k, v in r.items() if k not in NOT_COMPARED} for r in rows]
  assert kept == [{k: v for k, v in r.items() if k not in NOT_COMPARED} for r in expected]


def test_sigterm_saves_in_both(program, tmp_path):
  process = _start(
    program, 2, tmp_path, '--config.num_epochs=500', '--config.schedule.warmup_epochs=1'
  )
  checkpoints = tmp_path / 'checkpoints'
  deadline = time.monotonic() + 300
  while not (checkpoints / '6').exists() and time.monotonic() < deadline:
    assert process.poll() is None
    time.sleep(0.1)
  process.send_signal(signal.SIGTERM)
  code, output = _end(process)
  assert code == 75, output
  assert 'saved: the same command goes on' in output


def test_bad_input_is_told_and_ends_both(program, tmp_path):
  code, output = _end(_start(program, 2, tmp_path, '--config.batch_size=63'))
  assert code == 2 and 'does not divide over 2 devices' in output


def test_a_slurm_job_is_queued_again_and_goes_on(program, tmp_path):
  """SLURM's variables, srun and scontrol are emulated; the processes are real."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  for name, body in (('srun', SRUN), ('scontrol', 'echo "scontrol $*"')):
    (folder / name).write_text(f'#!/bin/bash\n{body}')
    (folder / name).chmod(0o755)
  env = {
    **os.environ,
    'PATH': f'{folder}:{os.environ["PATH"]}',
    'HERE': str(tmp_path),
    'CLR_JAX': program,
    'SLURM_JOB_ID': str(os.getpid()),  # chooses the port
    'JAX_PLATFORMS': 'cpu',
    'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
  }

  def submit(*options):
    script = str(ROOT / 'launch/slurm.sh')
    config = f'--config={ROOT}/tests/tiny.py', f'--workdir={tmp_path / "run"}'
    command = [script, *config, *options]
    return subprocess.Popen(
      command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

  long = '--config.num_epochs=500', '--config.schedule.warmup_epochs=1'
  job = submit(*long)
  deadline = time.monotonic() + 300
  while not (tmp_path / 'run/checkpoints/6').exists() and time.monotonic() < deadline:
    assert job.poll() is None
    time.sleep(0.1)
  for pid in (tmp_path / 'tasks').read_text().split():
    os.kill(int(pid), signal.SIGTERM)
  code, output = _end(job)
  assert code == 75 and f'scontrol requeue {os.getpid()}' in output, output
  saved = max(int(p.name) for p in (tmp_path / 'run/checkpoints').iterdir())
  code, output = _end(submit(*long, f'--config.stop_at_epoch={(saved + 3) / 22}'))
  assert code == 0 and f'at step {saved}' in output, output
