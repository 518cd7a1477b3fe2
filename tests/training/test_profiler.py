"""The profiler's range of steps, whatever dispatches, resumptions and failures cut it."""

import contextlib
import pathlib

import jax
import jax.numpy as jnp
import pytest

from clr_jax.core.errors import UserError
from clr_jax.training import callbacks
from clr_jax.training.callbacks import Profiler, check_profile


@pytest.fixture
def events(monkeypatch):
  seen = []
  monkeypatch.setattr(callbacks.jax.profiler, 'start_trace', lambda _: seen.append('start'))
  monkeypatch.setattr(callbacks.jax.profiler, 'stop_trace', lambda: seen.append('stop'))
  monkeypatch.setattr(callbacks.jax, 'block_until_ready', lambda x: seen.append('wait'))
  return seen


def _run(steps, calls, events, fail_at=None, directory='unused'):
  with Profiler(steps, directory) as profiler:
    for step, count in calls:
      profiler.before(step, count)
      events.append(step)
      if step == fail_at:
        raise ValueError
      profiler.after(step, count, 'metrics')
  return events


@pytest.mark.parametrize(
  ('steps', 'calls', 'expected'),
  [
    ((0, 0), [(0, 1)], [0]),
    ((1, 3), [(0, 1), (1, 1), (2, 1), (3, 1)], [0, 'start', 1, 2, 'wait', 'stop', 3]),
    ((1, 3), [(0, 2), (2, 2), (4, 2)], ['start', 0, 2, 'wait', 'stop', 4]),  # they overlap it
    ((1, 4), [(2, 1), (3, 1), (4, 1)], ['start', 2, 3, 'wait', 'stop', 4]),  # resumed past first
    ((1, 4), [(4, 1), (5, 1)], [4, 5]),  # resumed past last
    ((1, 9), [(0, 1), (1, 1)], [0, 'start', 1, 'wait', 'stop']),  # ended before last
  ],
)
def test_range(events, steps, calls, expected):
  assert _run(steps, calls, events) == expected


@pytest.mark.parametrize('steps', [(22, 30), (5, 5), (10**9, 10**9 + 1)])
def test_a_range_without_a_step_is_refused(steps):
  with pytest.raises(UserError, match=r'profile=.* holds no step of this run of 22 .* \(10, 22\)'):
    check_profile(steps, 22)
  for allowed in ((0, 0), (0, 1), (21, 10**9)):
    check_profile(allowed, 22)


def test_a_failing_run_keeps_its_trace(events):
  with pytest.raises(ValueError):
    _run((0, 5), [(0, 1), (1, 1)], events, fail_at=1)
  assert events == ['start', 0, 1, 'wait', 'stop']


@pytest.mark.parametrize('fails', [False, True])
def test_a_trace_goes_to_a_store_and_nothing_stays_here(events, tmp_path, monkeypatch, fails):
  sent, temporary = {}, tmp_path / 'temporary'

  def start_trace(folder):
    (pathlib.Path(folder) / 'plugins').mkdir(parents=True)
    (pathlib.Path(folder) / 'plugins' / 'nameless').write_bytes(b'trace')

  def atomic_write(path, content):
    if fails:
      raise OSError
    sent[str(path)] = content

  monkeypatch.setattr(callbacks.jax.profiler, 'start_trace', start_trace)
  monkeypatch.setattr(callbacks, 'atomic_write', atomic_write)
  monkeypatch.setattr(callbacks.tempfile, 'mkdtemp', lambda: str(temporary))
  with pytest.raises(OSError) if fails else contextlib.nullcontext():
    _run((0, 1), [(0, 1)], events, directory='gs://bucket/profile')
  assert sent == ({} if fails else {'gs://bucket/profile/plugins/nameless': b'trace'})
  assert not temporary.exists()


def test_a_trace_appears(tmp_path):
  step = jax.jit(lambda x: x @ x)
  with Profiler((1, 2), tmp_path / 'profile') as profiler:
    for i in range(3):
      profiler.before(i, 1)
      profiler.after(i, 1, step(jnp.ones([8, 8])))
  assert [p.stat().st_size > 0 for p in tmp_path.rglob('*.xplane.pb')] == [True]
