"""The launch scripts with stand-ins for what they start."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from clr_jax.experiment.config_files import load
from tests.processes.launching import SRUN

LAUNCH = pathlib.Path(__file__).parents[2] / 'launch'


@pytest.fixture
def stand_in(tmp_path):
  def write(name, body):
    path = tmp_path / 'bin' / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/bash\n{body}\n')
    path.chmod(0o755)
    return path

  return write


# A shell cannot trap a signal that was ignored when it began, as Ctrl-C is in background jobs, and
# SIGHUP below nohup.
_WITH_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def _start(script, arguments, tmp_path, **env):
  path = f'{tmp_path / "bin"}:{os.environ["PATH"]}'
  return subprocess.Popen(
    [sys.executable, '-c', _WITH_CTRL_C, LAUNCH / script, *arguments],
    env={**os.environ, 'PATH': path, 'HERE': str(tmp_path), **env},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _end(process):
  output = process.communicate(timeout=60)[0]
  return process.returncode, output


def _wait_for(*paths):
  deadline = time.monotonic() + 30
  while not all(p.exists() for p in paths) and time.monotonic() < deadline:
    time.sleep(0.05)


def test_processes_get_their_places(tmp_path, stand_in):
  program = stand_in('program', 'echo "$@"')
  code, output = _end(
    _start('local_multiprocess.sh', ['2', 'train', '--a=b c'], tmp_path, CLR_JAX=str(program))
  )
  assert code == 0
  lines = sorted(output.splitlines())
  assert len(lines) == 2
  for i, line in enumerate(lines):
    assert line.startswith(f'[{i}] train --a=b c --coordinator=127.0.0.1:')
    assert line.endswith(f'--num_processes=2 --process_id={i}')


@pytest.mark.slow  # the others get ten seconds
def test_the_first_failure_ends_all_and_gives_the_code(tmp_path, stand_in):
  program = stand_in('program', '[[ $* == *process_id=1* ]] && exit 3; exec sleep 300')
  start = time.monotonic()
  code, _ = _end(_start('local_multiprocess.sh', ['2', 'train'], tmp_path, CLR_JAX=str(program)))
  assert code == 3 and time.monotonic() - start < 40


SAVES = 'trap "echo saved; exit 75" TERM; touch "$HERE/${*: -1}"; for ((;;)); do sleep 0.05; done'


@pytest.mark.parametrize(
  'number',
  [
    pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, marks=pytest.mark.weekly),
    pytest.param(signal.SIGINT, marks=pytest.mark.weekly),
  ],
)
def test_signals_reach_all_processes(tmp_path, stand_in, number):
  program = stand_in('program', SAVES)
  process = _start('local_multiprocess.sh', ['2', 'train'], tmp_path, CLR_JAX=str(program))
  _wait_for(*(tmp_path / f'--process_id={i}' for i in range(2)))
  process.send_signal(number)
  code, output = _end(process)
  assert code == 75 and sorted(output.splitlines()) == ['[0] saved', '[1] saved']


@pytest.mark.parametrize('arguments', [[], ['2'], ['0', 'train'], ['x', 'train']])
def test_wrong_usage(tmp_path, arguments):
  code, output = _end(_start('local_multiprocess.sh', arguments, tmp_path))
  assert code == 2 and output.startswith('usage:')


def test_gpus_are_needed(tmp_path, stand_in):
  stand_in('nvidia-smi', 'exit 9')
  code, output = _end(_start('multi_gpu.sh', ['--config=x'], tmp_path))
  assert code == 2 and 'no GPU' in output


def test_a_preempted_run_is_started_again(tmp_path, stand_in):
  stand_in('nvidia-smi', 'echo "GPU 0: Stand-in"')
  stand_in('clr-jax', 'echo "$@"; [[ -e $HERE/again ]] && exit 4; touch "$HERE/again"; exit 75')
  code, output = _end(_start('multi_gpu.sh', ['--config=x'], tmp_path))
  assert code == 4 and output.count('train --config=x') == 2


def test_a_stopped_run_is_not_started_again(tmp_path, stand_in):
  stand_in('nvidia-smi', 'echo "GPU 0: Stand-in"')
  stand_in('clr-jax', SAVES)
  process = _start('multi_gpu.sh', ['--config=x'], tmp_path)
  _wait_for(tmp_path / '--config=x')
  process.send_signal(signal.SIGTERM)
  code, output = _end(process)
  assert code == 75 and output.count('saved') == 1


@pytest.mark.parametrize('code', [0, 3, 75])
def test_a_slurm_job_ends_or_is_queued_again(tmp_path, stand_in, code):
  stand_in('srun', SRUN)
  stand_in('scontrol', 'echo "scontrol $*"')
  stand_in('clr-jax', f'echo "task $SLURM_PROCID: $*"; exit {code}')
  job = {'SLURM_JOB_ID': '77'}
  found, output = _end(_start('slurm.sh', ['--config=x', '--workdir=a b'], tmp_path, **job))
  assert found == code
  for i in range(2):
    assert f'task {i}: train --distributed --config=x --workdir=a b\n' in output
  assert ('scontrol requeue 77' in output) == (code == 75)


def test_slurm_is_needed(tmp_path):
  code, output = _end(_start('slurm.sh', ['--config=x'], tmp_path, SLURM_JOB_ID=''))
  assert code == 2 and 'no SLURM job' in output


@pytest.mark.parametrize(('code', 'line'), [(0, 1), (75, 2), (3, 2)])
def test_a_task_of_an_array_runs_its_line(tmp_path, stand_in, code, line):
  stand_in('srun', 'shift; exec "$@"')
  stand_in('scontrol', 'echo "scontrol $*"')
  stand_in('clr-jax', f'printf "[%s]" "$@"; exit {code}')
  runs = tmp_path / 'runs.txt'
  runs.write_text("clr-jax train --config=x --workdir=d/1\nclr-jax train --config.n='a b' -w=d/2\n")
  task = {'SLURM_ARRAY_JOB_ID': '77', 'SLURM_ARRAY_TASK_ID': str(line)}
  found, output = _end(_start('slurm_sweep.sh', [str(runs)], tmp_path, **task))
  words = ('--config=x', '--workdir=d/1') if line == 1 else ('--config.n=a b', '-w=d/2')
  assert found == code and output.startswith('[train]' + ''.join(f'[{w}]' for w in words)), output
  assert (f'scontrol requeue 77_{line}' in output) == (code == 75)


@pytest.mark.parametrize(
  ('arguments', 'task', 'says'),
  [
    ([], '1', 'usage:'),
    (['no.txt'], '1', 'usage:'),
    (['runs.txt'], '', 'no task of a SLURM array'),
    (['runs.txt'], '2', "line 2 of runs.txt is not a command of clr-jax sweep --list: 'rm -r x'"),
    (['runs.txt'], '3', "line 3 of runs.txt is not a command of clr-jax sweep --list: ''"),
  ],
)
def test_lines_that_cannot_be_run(tmp_path, stand_in, monkeypatch, arguments, task, says):
  stand_in('srun', 'touch "$HERE/called"')
  (tmp_path / 'runs.txt').write_text('clr-jax train --config=x\nrm -r x\n')
  monkeypatch.chdir(tmp_path)
  code, output = _end(_start('slurm_sweep.sh', arguments, tmp_path, SLURM_ARRAY_TASK_ID=task))
  assert code == 2 and says in output and not (tmp_path / 'called').exists()


GCLOUD = r"""
[[ -z $PROJECT ]] || [[ " $* " == *" --project=$PROJECT --zone=$ZONE "* ]] || exit 9
echo "$*" >> "$HERE/calls"
case "$*" in
  *describe*) [[ -e $HERE/waited ]] && echo ACTIVE || echo PROVISIONING; touch "$HERE/waited" ;;
  *"clr-jax train"*) [[ -e $HERE/again ]] && exit 4; touch "$HERE/again"; exit 75 ;;
esac
"""


def test_a_tpu_slice_is_made_used_and_given_back(tmp_path, stand_in):
  stand_in('gcloud', GCLOUD)
  place = {'PROJECT': 'p', 'ZONE': 'z', 'POLL_SECONDS': '0'}
  code, output = _end(_start('tpu_pod.sh', ['create', 'pod', 'v5litepod-16'], tmp_path, **place))
  assert code == 0 and output.split() == ['pod:', 'PROVISIONING', 'pod:', 'ACTIVE']
  arguments = ['train', 'pod', '--config=x', '--workdir=gs://b/r', "--config.data.name=it's"]
  code, output = _end(_start('tpu_pod.sh', arguments, tmp_path, **place))
  assert code == 4  # the second start's
  code, _ = _end(_start('tpu_pod.sh', ['delete', 'pod'], tmp_path, **place))
  assert code == 0
  calls = (tmp_path / 'calls').read_text().splitlines()
  assert '--accelerator-type=v5litepod-16' in calls[0] and ' --spot' in calls[0]
  trainings = [call for call in calls if 'clr-jax train' in call]
  assert len(trainings) == 2 and trainings[0] == trainings[1]
  assert '--worker=all' in trainings[0]
  assert "--distributed --config=x --workdir=gs://b/r --config.data.name=it\\'s" in trainings[0]
  assert calls[-1].startswith('compute tpus queued-resources delete pod')


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    ([], 'usage:'),
    (['stop', 'pod'], 'usage:'),
    (['create', 'pod'], 'usage:'),
    (['train', 'pod', '--config=x', '--workdir=/tmp/x'], 'give --workdir=gs://'),
  ],
)
def test_wrong_usage_of_a_pod(tmp_path, stand_in, arguments, says):
  stand_in('gcloud', 'touch "$HERE/called"')
  code, output = _end(_start('tpu_pod.sh', arguments, tmp_path))
  assert code == 2 and says in output and not (tmp_path / 'called').exists()


def test_shellcheck_finds_nothing():
  scripts = sorted(LAUNCH.glob('*.sh'))
  assert len(scripts) >= 6
  scripts += [p for p in (LAUNCH.parent / '.ci').glob('*') if not p.suffix]  # of a checkout
  found = subprocess.run(['shellcheck', *scripts], capture_output=True, text=True, check=False)
  assert found.returncode == 0, found.stdout


def test_methods_are_compared_and_a_stopped_comparison_goes_on(tmp_path, stand_in):
  """The stand-in trains: accuracy by method, one failure on the first call."""
  program = stand_in(
    'program',
    r"""
    [[ $1 == methods ]] && { echo 'good  paper'; echo 'bad  paper'; exit; }
    echo "$@" >> "$HERE/calls"
    for a; do case $a in --workdir=*) dir=${a#--workdir=};; esac; done
    mkdir -p "$dir/results"
    [[ $dir == *bad-1 && ! -e $HERE/failed ]] && { touch "$HERE/failed"; exit 1; }
    value=80; [[ $dir == *bad* ]] && value=40; [[ $dir == *-1 ]] && value=$((value + 2))
    for kind in trained untrained; do
      echo '{"protocol": "linear", "metric": "top1", "features": "'$kind'", "value": 0.'$value',
        "params": {"label_fraction": 0.01}}' > "$dir/results/$kind.json"
      value=30
    done
    """,
  )
  arguments = [f'--out={tmp_path / "out"}', '--config.num_epochs=1']
  for expected, calls in ((1, 4), (0, 5), (0, 5)):
    code, output = _end(_start('compare_methods.py', arguments, tmp_path, CLR_JAX=str(program)))
    assert code == expected, output
    assert len((tmp_path / 'calls').read_text().splitlines()) == calls
  lines = (tmp_path / 'out' / 'table.md').read_text().splitlines()
  assert lines[0] == '| method | trained, 0.01 | untrained, 0.01 | seconds |'
  assert lines[2].startswith('| `good` | 81.0 ± 1.0 | 30.0 ± 0.0 |')
  assert lines[3].startswith('| `bad` | 41.0 ± 1.0 |')
  last = (tmp_path / 'calls').read_text().splitlines()[-1]
  assert '--config=quickstart:bad' in last and '--config.seed=1 ' in last and last.endswith('=1')


BENCH = r"""
echo "$@" >> "$HERE/calls"
case "$*" in
  plan*)
    echo '{"target": "chip:1", "total": {"kernels": 3, "flops": 2e9, "bytes": 1048576},' \
      '"least_seconds": {"bound": 0.002}, "memory": {"peak": 2097152}}' ;;
  *--collectives*)
    echo '{"per_device": 8, "rows": [{"devices": 2, "batch_size": 16, "constant": 2048,' \
      '"growing": 1024, "ring": 3072}]}' ;;
  *--peer*)
    [[ -e $HERE/failed ]] || { touch "$HERE/failed"; echo 'out of memory' >&2; exit 1; }
    echo '{"torch_compile": "off",' \
      '"samples_per_second": {"clr_jax": {"median": 99}, "torch": {"median": 50}},' \
      '"ratio": {"median": 2.0, "min": 1.5, "max": 2.5}}' ;;
  *)
    echo '{"devices": 1, "device": "chip", "code_version": "1", "libraries": {"jax": "0"},' \
      '"samples_per_second": {"median": 100, "min": 90, "max": 110}, "step_seconds": 0.64,' \
      '"shares": {"operations": {"convolutions, products": 0.5, "BatchNorm": 0.2,' \
      '"augmentation": 0.01, "optimizer, state": 0.04}, "idle": 0.1},' \
      '"memory": {"peak_bytes": 1048576}, "mfu": null}' ;;
esac
"""


def test_the_benchmark_goes_on_and_makes_a_table(tmp_path, stand_in):
  """One measurement fails at first; the second time only this one is made."""
  program = stand_in('program', BENCH)
  stand_in('nvidia-smi', 'exit 9')
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'images_32.npz').touch()
  # A stand-in for a Python with PyTorch, whether this one has it or not.
  python = stand_in('python', f'[[ $1 != -c ]] || exit 0; exec {sys.executable} "$@"')
  env = {'CLR_JAX': str(program), 'PYTHON': str(python), 'BATCHES': '64 128'}
  for expected, calls in ((1, 14), (0, 15), (0, 15)):
    code, output = _end(_start('benchmark.sh', [str(out)], tmp_path, **env))
    assert code == expected, output
    assert len((tmp_path / 'calls').read_text().splitlines()) == calls
    failed = 'failed: resnet18 32 64 float32 peer off\n'
    assert (failed in output) == bool(code)
  records = [json.loads(line) for line in (out / 'results.jsonl').read_text().splitlines()]
  assert len({record['name'] for record in records}) == len(records) == 14
  table = (out / 'table.md').read_text()
  row = '| resnet18 32 128 float32 | 100 | 90..110 | 640.00 | 1% | 50% | 20% | 4% | 10% |'
  assert f'{row} 1 | - | 99 : 50 (off) | 2.00 (1.50..2.50) |' in table
  assert '| 2 | 16 | 2.0 | 1.0 | 3.0 |' in table and table in output
  assert '| resnet18 32 128 float32 | chip:1 | 3 | 2.0 | 1 | 2 | 2.00 | 640.00 |' in table
  calls = (tmp_path / 'calls').read_text()
  assert f'--config.data.name=npz:{out}/images_32.npz' in calls
  assert '--config.batch_size=128' in calls


def test_the_benchmark_of_a_gpu(tmp_path, stand_in):
  program = stand_in('program', BENCH)
  stand_in('nvidia-smi', 'echo "GPU 0: NVIDIA H200"')
  python = stand_in('python', f'[[ $1 != -c ]] || exit 1; exec {sys.executable} "$@"')
  out = tmp_path / 'out'
  out.mkdir()
  for side in (32, 224):
    (out / f'images_{side}.npz').touch()
  env = {'CLR_JAX': str(program), 'PYTHON': str(python)}
  code, output = _end(_start('benchmark.sh', [str(out)], tmp_path, **env))
  assert code == 0 and 'no PyTorch' in output
  calls = (tmp_path / 'calls').read_text().splitlines()
  assert len(calls) == 2 * 2 * (2 * 7 + 2) + 2 and not any('--peer' in call for call in calls)
  large = [call for call in calls if '--config.augment.size=224' in call]
  assert len(large) == 2 * 4 and all('--config.model.stem=imagenet' in call for call in large)
  assert sum('--target=h200:1' in call for call in calls) == 2 * (2 * 7 + 2)


@pytest.mark.parametrize(('size', 'runs'), [([], 7), (['document'], 9)])
def test_the_robustness_study_attacks_every_network_that_it_trains(tmp_path, stand_in, size, runs):
  stand_in('clr-jax', 'echo "$@"')
  code, output = _end(_start('robustness_study.sh', [str(tmp_path / 'out'), *size], tmp_path))
  assert code == 0
  trained = [line for line in output.splitlines() if line.startswith('train --config=robustness:')]
  assert len(trained) == runs
  for line in trained:
    spec = line.split()[1].partition('=')[2]
    assert spec.partition(':')[2].startswith('fashion_') == (not size)
    load(spec)
  (attacked,) = [line for line in output.splitlines() if line.startswith('evaluate robustness')]
  folders = [next(w for w in line.split() if w.startswith('--workdir=')) for line in trained]
  assert attacked.split()[2 : 2 + runs] == folders


def test_the_robustness_study_knows_two_sizes(tmp_path):
  code, output = _end(_start('robustness_study.sh', ['out', 'large'], tmp_path))
  assert code == 2 and output.startswith('usage:')
