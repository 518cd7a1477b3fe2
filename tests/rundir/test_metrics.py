"""Metric files: segments, kills, numbers that are not finite, TensorBoard without TensorFlow."""

import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clr_jax.core.storage import atomic_write
from clr_jax.rundir import loggers, metrics
from clr_jax.rundir.metrics import MetricWriter
from clr_jax.rundir.rows import read_metrics
from clr_jax.rundir.workdir import Workdir


def bare(rows):
  return [{k: v for k, v in row.items() if k != 'time'} for row in rows]


def test_rows_of_one_step_are_merged_and_typed(tmp_path):
  run = Workdir(tmp_path)
  assert read_metrics(run) == []
  with MetricWriter(run, first_step=0) as writer:
    writer.write_scalars(20, {'loss': jnp.float32(0.5), 'lr': np.float64(0.1)})
    writer.write_scalars(10, {'loss': float('nan'), 'norm': -math.inf, 'big': math.inf})
    writer.write_scalars(20, {'knn': 1})
  rows = read_metrics(run)
  assert [row['step'] for row in rows] == [10, 20]
  assert all(row['time'] > 1e9 for row in rows)
  assert math.isnan(rows[0]['loss'])
  assert rows[0]['norm'] == -math.inf
  assert rows[0]['big'] == math.inf
  assert bare(rows)[1] == {'step': 20, 'loss': 0.5, 'lr': 0.1, 'knn': 1}
  for path in run.metrics.iterdir():  # strict JSON: no NaN, no Infinity
    for line in path.read_text().splitlines():
      json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_lists_are_in_the_rows_only(tmp_path):
  run = Workdir(tmp_path)
  with MetricWriter(run, first_step=0) as writer:
    writer.write_scalars(1, {'loss': 1, 'hist': [3.0, 4.0]})
  assert bare(read_metrics(run)) == [{'step': 1, 'loss': 1.0, 'hist': [3.0, 4.0]}]


def test_rows_beyond_the_checkpoint_of_a_killed_run_disappear(tmp_path):
  run = Workdir(tmp_path)
  killed = MetricWriter(run, first_step=0, loggers=())
  for step in (10, 20, 30):
    killed.write_scalars(step, {'loss': step})
    killed.flush()
  killed.write_scalars(40, {'loss': 40})  # never flushed
  MetricWriter(run, first_step=20, loggers=())  # killed before its first row
  assert bare(read_metrics(run)) == [{'step': 10, 'loss': 10}, {'step': 20, 'loss': 20}]
  with MetricWriter(run, first_step=20) as writer:
    writer.write_scalars(30, {'loss': -30})
  assert [row['loss'] for row in read_metrics(run)] == [10, 20, -30]


@pytest.mark.parametrize('local', [True, False])
def test_a_clock_that_was_set_back_changes_no_order(tmp_path, monkeypatch, local):
  """Neither for our reader nor for TensorBoard; also behind files of earlier versions."""
  monkeypatch.setattr(loggers, 'is_local', lambda path: local)
  run = Workdir(tmp_path)
  old = f'{1_700_000_000_000_000_000:020d}'
  atomic_write(run.metrics / f'{old}-step{0:012d}.jsonl', '{"step": 1, "loss": 0}\n')
  for first, clock in ((0, 3e9), (2, 1e9), (4, 2e9)):
    monkeypatch.setattr(metrics.time, 'time', lambda clock=clock: clock)
    monkeypatch.setattr(metrics.time, 'time_ns', lambda clock=clock: int(clock * 1e9))
    with MetricWriter(run, first_step=first) as writer:
      for step in range(first + 1, first + 5):
        writer.write_scalars(step, {'loss': step + 100 * first})
  expected = [1, 2, 203, 204, *(405, 406, 407, 408)]
  assert [row['loss'] for row in read_metrics(run)] == expected
  events = EventAccumulator(str(run.tensorboard)).Reload()
  assert [event.value for event in events.Scalars('loss')] == expected


@settings(max_examples=25, deadline=None)
@given(
  st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=4),
  st.integers(1, 5),
)
def test_any_history_of_kills_reads_like_one_run(tmp_path_factory, segments, rows_per_file):
  """Each segment goes `length` steps and is then resumed from `back` steps before its end."""
  run = Workdir(tmp_path_factory.mktemp('run'))
  start, expected = 0, {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(metrics, '_ROWS_PER_FILE', rows_per_file)
    for number, (length, back) in enumerate(segments):
      writer = MetricWriter(run, first_step=start, loggers=())
      expected = {step: value for step, value in expected.items() if step <= start}
      for step in range(start + 1, start + length + 1):
        writer.write_scalars(step, {'a': number})
        writer.flush()
        expected[step] = number
      start = max(start + length - back, 0)
  assert {row['step']: row['a'] for row in read_metrics(run)} == expected


def test_long_runs_are_split_into_bounded_files(tmp_path, monkeypatch):
  monkeypatch.setattr(metrics, '_ROWS_PER_FILE', 3)
  run = Workdir(tmp_path)
  with MetricWriter(run, first_step=0, loggers=()) as writer:
    for step in range(1, 11):
      writer.write_scalars(step, {'loss': step})
      writer.write_scalars(step, {'knn': step})
      writer.flush()
  sizes = [len(p.read_text().splitlines()) for p in run.metrics.iterdir()]
  assert sorted(sizes) == [4, 4, 4, 4, 4]  # two rows a flush
  assert bare(read_metrics(run)) == [{'step': s, 'loss': s, 'knn': s} for s in range(1, 11)]


def test_damaged_lines_and_foreign_files_are_passed_over(tmp_path, caplog):
  run = Workdir(tmp_path)
  with MetricWriter(run, first_step=0, loggers=()) as writer:
    writer.write_scalars(1, {'loss': 1})
    writer.write_scalars(2, {'loss': 2})
  (path,) = run.metrics.iterdir()
  path.write_text(path.read_text()[:-9])
  (run.metrics / 'notes.jsonl').write_text('{"step": 5}\n')
  assert [row['step'] for row in read_metrics(run)] == [1]
  assert 'skipped 1 damaged rows' in caplog.text
  rows = b'\xff\n[]\n{"step": "a"}\n{"step": 1e400}\n{"loss": 1}\n{"step": 3}\n'
  path.with_name(f'{9:020d}-step{0:012d}.jsonl').write_bytes(rows)
  caplog.clear()
  assert [row['step'] for row in read_metrics(run)] == [3]
  assert len(caplog.records) == 2 and 'skipped 5 damaged rows' in caplog.text  # one a file


def test_only_process_zero_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  run = Workdir(tmp_path)
  with MetricWriter(run, first_step=0) as writer:
    writer.write_scalars(1, {'loss': 1})
    writer.flush()
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('local', [True, False])
def test_tensorboard_reads_the_events(tmp_path, monkeypatch, local):
  monkeypatch.setattr(loggers, 'is_local', lambda path: local)
  run = Workdir(tmp_path)
  killed = MetricWriter(run, first_step=0)
  for step in (1, 2, 3):
    killed.write_scalars(step, {'loss': step})
  killed.close()
  with MetricWriter(run, first_step=1) as writer:
    writer.write_scalars(2, {'loss': 20})
  events = EventAccumulator(str(run.tensorboard)).Reload()
  assert [(e.step, e.value) for e in events.Scalars('loss')] == [(1, 1), (2, 20)]


def test_no_tensorflow_even_where_it_is_installed(tmp_path):
  """A module of that name stands in for an installation."""
  (tmp_path / 'tensorflow').mkdir()
  (tmp_path / 'tensorflow' / '__init__.py').write_text('raise SystemExit("imported")')
  code = (
    'import sys; from clr_jax.rundir.metrics import MetricWriter\n'
    'from clr_jax.rundir.workdir import Workdir\n'
    'with MetricWriter(Workdir(sys.argv[1]), first_step=0) as w:\n'
    '  w.write_scalars(1, {"a": 1})\n'
    'assert "tensorflow" not in sys.modules and "clu.metric_writers" not in sys.modules\n'
  )
  environment = {
    **os.environ,
    'PYTHONPATH': os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)]),
    'JAX_PLATFORMS': 'cpu',
  }
  command = [sys.executable, '-c', code, str(tmp_path / 'run')]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert len(list((tmp_path / 'run' / 'tensorboard').iterdir())) == 1
