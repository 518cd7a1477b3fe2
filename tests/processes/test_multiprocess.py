"""Two real processes on loopback train what one trains, stop together and go on."""

import os
import signal
import socket
import subprocess

import numpy as np
import pytest

from clr_jax.rundir import results as results_lib
from clr_jax.rundir import workdir
from tests.processes.launching import (
  NO_TEST,
  ROOT,
  SRUN,
  TINY,
  assert_same,
  ended,
  launch,
  rows_of,
  start_training,
  state_of,
  until_saved,
)

slow = pytest.mark.slow


@pytest.fixture(scope='module')
def program(zygote, tmp_path_factory):
  return zygote.script(tmp_path_factory.mktemp('bin'), 'clr_jax')


@slow
def test_two_processes_equal_one_and_resume(zygote, program, tmp_path):
  code, output = ended(start_training(program, 1, tmp_path / 'one'))
  assert code == 0, output
  # The first half, then the rest of the same run.
  code, output = ended(start_training(program, 2, tmp_path / 'two', '--config.stop_at_epoch=0.6'))
  assert code == 0, output
  code, output = ended(start_training(program, 2, tmp_path / 'two'))
  assert code == 0, output
  resumed = [line for line in output.splitlines() if 'resumed' in line]
  assert len(resumed) == 1 and resumed[0].startswith('[0]'), output  # process 0 speaks
  expected = rows_of(tmp_path / 'one')
  end = round(0.6 * 22)  # the row of the end of the first half is off the grid
  assert_same([r for r in rows_of(tmp_path / 'two') if r['step'] != end], expected)
  one, two = (results_lib.read_results(workdir.Workdir(tmp_path / n)) for n in ('one', 'two'))
  assert one[0]['device'] == '1 x cpu' and two[-1]['device'] == '2 x cpu'
  at_the_end = [r for r in two if r['step'] == 22]  # each number once: process 1 writes nothing
  assert [r['metric'] for r in at_the_end] == [r['metric'] for r in one]
  assert at_the_end[0]['value'] == pytest.approx(one[0]['value'], abs=0.02)
  # A process that sees files late does what the first one does; on its own it would wait forever.
  late = zygote.script(tmp_path, 'tests.processes.child', 'late')
  code, output = ended(start_training(late, 2, tmp_path / 'two'))
  assert code == 0 and 'at step 22' in output, output
  assert results_lib.read_results(workdir.Workdir(tmp_path / 'two')) == two
  code, output = ended(
    launch(late, 2, 'evaluate', 'knn', '--overwrite', f'--workdir={tmp_path}/two')
  )
  assert code == 0, output
  *before, last = results_lib.read_results(workdir.Workdir(tmp_path / 'two'))
  assert before == two and last['step'] == 22


# The first has a table, a queue, an EMA target and a probe, the second prototypes.
METHODS = [
  pytest.param(name, marks=pytest.mark.weekly)
  for name in ('dynamic_moco', 'swav', 'simclr', 'moco', 'byol', 'vicreg')
]


@pytest.mark.parametrize('method', METHODS)
def test_two_and_four_processes_train_as_one(zygote, tmp_path, method):
  """Losses, parameters, batch statistics, EMA target, queue, table and optimizer, in float64."""
  wide = zygote.script(tmp_path, 'tests.processes.child', 'in_float64')
  short = '--config.stop_at_epoch=0.37', '--config.eval_every=0', '--config.checkpoint_every=0'
  directories = {n: tmp_path / str(n) for n in (1, 2, 4)}
  for processes, directory in directories.items():
    started = start_training(
      wide, processes, directory, *short, NO_TEST, method=method, JAX_ENABLE_X64='1'
    )
    code, output = ended(started)
    assert code == 0, output
  expected, rows = state_of(directories[1]), rows_of(directories[1])
  assert [r['step'] for r in rows if 'loss' in r] == [4, 8]
  assert {str(v.dtype) for k, v in expected.items() if 'params/' in k} == {'float64'}
  for processes in (2, 4):
    assert_same(rows_of(directories[processes]), rows, rel=1e-9)
    state = state_of(directories[processes])
    assert state.keys() == expected.keys()
    for name, value in expected.items():
      # Beside its largest number: of a bias before BatchNorm the gradient is rounding alone.
      scale = np.abs(value, where=np.isfinite(value), out=np.zeros(value.shape)).max(initial=0)
      np.testing.assert_allclose(
        state[name], value, rtol=0, atol=1e-10 * scale + 1e-13, err_msg=f'{name}, {processes}'
      )


@slow
def test_sigterm_saves_in_both(program, tmp_path):
  process = start_training(
    program, 2, tmp_path, '--config.num_epochs=500', '--config.schedule.warmup_epochs=1'
  )
  until_saved(process, tmp_path)
  process.send_signal(signal.SIGTERM)
  code, output = ended(process)
  assert code == 75, output
  assert 'saved: run the same command to resume' in output


@slow
def test_bad_input_is_told_and_ends_both(program, tmp_path):
  code, output = ended(start_training(program, 2, tmp_path, '--config.batch_size=63'))
  assert code == 2 and 'is not divisible by 2 devices' in output


@pytest.mark.weekly
@slow
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
    launcher = str(ROOT / 'launch/slurm.sh')
    config = f'--config={TINY}', f'--workdir={tmp_path / "run"}'
    command = [launcher, *config, *options]
    return subprocess.Popen(
      command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

  long = '--config.num_epochs=500', '--config.schedule.warmup_epochs=1'
  job = submit(*long)
  until_saved(job, tmp_path / 'run')
  for pid in (tmp_path / 'tasks').read_text().split():
    os.kill(int(pid), signal.SIGTERM)
  code, output = ended(job)
  assert code == 75 and f'scontrol requeue {os.getpid()}' in output, output
  saved = max(int(p.name) for p in (tmp_path / 'run/checkpoints').iterdir())
  code, output = ended(submit(*long, f'--config.stop_at_epoch={(saved + 3) / 22}'))
  assert code == 0 and f'at step {saved}' in output, output


@pytest.mark.weekly
@slow
def test_a_deleted_pod_saves_with_the_others(zygote, tmp_path):
  """Kubernetes' variables and API are emulated; the processes are real."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  options = (
    f'--config={TINY}',
    f'--workdir={tmp_path / "run"}',
    '--config.num_epochs=500',
  )
  command = [
    zygote.script(tmp_path, 'tests.processes.child', 'kubernetes'),
    'train',
    '--distributed',
    *options,
  ]
  pods = [
    subprocess.Popen(
      command,
      cwd=ROOT,
      env={
        **os.environ,
        'KUBERNETES_SERVICE_HOST': '10.0.0.1',
        'HOSTNAME': 'localhost',
        'JOB_COMPLETION_INDEX': str(index),
        'JAX_COORDINATOR_ADDRESS': address,  # the headless service's name cannot be emulated
        'JAX_PLATFORMS': 'cpu',
        'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in range(2)
  ]
  until_saved(pods[1], tmp_path / 'run')
  pods[1].send_signal(signal.SIGTERM)
  for pod in pods:
    code, output = ended(pod)
    assert code == 75 and 'saved: run the same command to resume' in output, output
