"""Real processes of `clr-jax` on this machine, and what their runs left behind."""

import contextlib
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from clr_jax.rundir import results, workdir
from clr_jax.rundir.rows import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
TINY = ROOT / 'tests' / 'tiny.py'
NO_TEST = '--config.data.test_split='
NOT_COMPARED = {'time', 'samples_per_second', 'data_wait_share', 'online_seconds'}


class Zygote(NamedTuple):
  """Commands that start processes which need not import the library: tests/processes/zygote.py."""

  socket: str

  def command(self, module: str, *arguments) -> list[str]:
    """As `python -m MODULE ARGUMENTS...`; tests.processes.child takes a fault first."""
    program = sys.executable, '-S', '-E', str(ROOT / 'tests/processes/zygote.py')
    return [*program, self.socket, module, *map(str, arguments)]

  def script(self, folder: pathlib.Path, module: str, *arguments) -> str:
    """The same as a program of one word, as the launchers want it; it takes further arguments."""
    path = folder / '_'.join([module, *arguments])
    path.write_text(f'#!/bin/bash\nexec {shlex.join(self.command(module, *arguments))} "$@"\n')
    path.chmod(0o755)
    return str(path)


# Emulates SLURM's srun for a step, in bash: two tasks, each with its place.
SRUN = r"""
while [[ $1 == --* ]]; do shift; done
for i in 0 1; do
  SLURM_STEP_NODELIST=127.0.0.1 SLURM_NTASKS=2 SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
  pids+=($!)
done
printf '%s\n' "${pids[@]}" > "$HERE/tasks"
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit "$code"
"""


@contextlib.contextmanager
def zygote(**environment: str) -> Iterator[Zygote]:
  """A parent of processes, until the end of the block.

  environment: what libraries read when they are imported, in the parent and so in its processes.
  """
  with tempfile.TemporaryDirectory() as folder:
    socket = pathlib.Path(folder) / 'socket'
    parent = subprocess.Popen(
      [sys.executable, '-m', 'tests.processes.zygote', 'serve', socket],
      cwd=ROOT,
      # One thread: only then it may fork.
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'OPENBLAS_NUM_THREADS': '1', **environment},
      stdin=subprocess.PIPE,
    )
    while not socket.exists():
      assert parent.poll() is None
      time.sleep(0.02)
    yield Zygote(str(socket))
    parent.stdin.close()
    parent.wait()


def start_training(program, processes, directory, *options, method='sogclr', **environment):
  """A tiny run."""
  # At the config's own rate training amplifies rounding a thousandfold within 20 steps, in float32
  # only: from the same views in float64, 1 and 2 devices agree to 2e-14.
  rate = '--config.optimizer.learning_rate=0.01'
  config = f'--config={TINY}:{method}', f'--workdir={directory}', rate
  return launch(program, processes, 'train', *config, *options, **environment)


def launch(program, processes, *arguments, **environment):
  """Starts a command in so many processes on loopback, or on its own."""
  launcher = [str(ROOT / 'launch/local_multiprocess.sh'), str(processes)] if processes > 1 else []
  command = [*(launcher or [program]), *arguments]
  env = {**os.environ, 'CLR_JAX': program, 'PYTHON': sys.executable, 'JAX_PLATFORMS': 'cpu'}
  env |= environment
  return subprocess.Popen(
    command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )


def until_saved(process, directory):
  """Waits for a first whole checkpoint of a run that goes on."""
  deadline = time.monotonic() + 300
  while not [p for p in (directory / 'checkpoints').glob('*') if p.name.isdigit()]:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.1)


def ended(process):
  """(code, all that it said)."""
  output = process.communicate(timeout=400)[0]
  return process.returncode, output


def rows_of(directory):
  return read_metrics(workdir.Workdir(directory))


def rows_without_clock(directory):
  """Without what a clock measured."""
  return [{k: v for k, v in row.items() if k not in NOT_COMPARED} for row in rows_of(directory)]


def results_of(directory):
  """Without when and how fast they were measured."""
  records = results.read_results(workdir.Workdir(directory))
  return [(r['protocol'], r['features'], r['metric'], r['step'], r['value']) for r in records]


def state_of(directory):
  """{path: array} of the newest checkpoint, as it was saved."""
  folder = max((directory / 'checkpoints').iterdir(), key=lambda path: int(path.name)) / 'state'
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    tree = checkpointer.metadata(folder).item_metadata.tree
    plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    state = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=plain))
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(p, simple=True, separator='/'): x for p, x in leaves}


def assert_same_to_the_bit(directory, expected):
  """Compares the newest checkpoints, metric rows and results of two runs."""
  state, expected_state = state_of(directory), state_of(expected)
  assert state.keys() == expected_state.keys()
  different = [k for k, x in expected_state.items() if state[k].tobytes() != x.tobytes()]
  assert not different
  assert rows_without_clock(directory) == rows_without_clock(expected)
  assert results_of(directory) == results_of(expected)


def assert_same(rows, expected, rel=1e-4):
  """Compares the rows of two runs."""
  assert [r['step'] for r in rows] == [r['step'] for r in expected]
  for row, other in zip(rows, expected, strict=True):
    for name in other.keys() - NOT_COMPARED:
      # Single predictions may flip; all else is rounding.
      relative, absolute = (0, 0.02) if 'top1' in name else (rel, rel / 100)
      same = pytest.approx(other[name], rel=relative, abs=absolute)
      assert row[name] == same, (row['step'], name)
