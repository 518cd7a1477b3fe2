"""Terminal output of a run."""

import contextlib
import os
import pty
import sys
import termios
import threading
import time

import pytest

from clr_jax.core import activity as activity_module
from clr_jax.core.activity import activity
from clr_jax.core.types import RunInfo
from clr_jax.training import progress as module
from clr_jax.training.progress import Progress, next_commands


def make(first, last, batch_size, **kwargs):
  info = RunInfo(1000, 10, batch_size, 2, steps_per_epoch=10, total_steps=last)
  return Progress(first, last, info, **kwargs)


def test_lines_count_samples_waiting_and_epochs(capsys, monkeypatch):
  clock = iter([100.0, 102.0, 112.5])
  monkeypatch.setattr(module.time, 'monotonic', lambda: next(clock))
  monkeypatch.setattr(module, 'every_second', lambda tick: contextlib.nullcontext())
  with make(10, 30, 64) as progress:
    row = progress.update(14, 0.5, 1.0)
    assert row == {'samples_per_second': 128.0, 'data_wait_share': 0.5}
    progress.evaluated({'online_knn_top1': 0.5, 'online_probe_top1': 0.256, 'rank': 3.0})
    progress.update(30, 0.25, 1.0)
  lines = capsys.readouterr().err.splitlines()
  assert lines == [
    'step 14/30  epoch 1.4  loss 0.5000  128 samples/s  waiting for data 50%  8 s left',
    'step 30/30  epoch 3.0  loss 0.2500  98 samples/s  kNN 50.0 %  probe 25.6 %  '
    'waiting for data 0%  0 s left',
  ]


@pytest.mark.parametrize('columns', [0, 80])
def test_a_surrogate_loss_is_named_and_the_objective_shown(columns, capsys, monkeypatch):
  with make(0, 30, 64) as progress:
    progress._narrow = columns == 80
    progress.update(30, -0.5, 0.0, 2.25)
  shown = capsys.readouterr().err
  assert 'epoch 3.0  objective 2.2500' in shown and '  loss' not in shown
  assert ('surrogate loss -0.5000' in shown) == (columns == 0)


def test_it_can_be_silent(capsys):
  with make(0, 2, 64, enabled=False) as progress:
    with progress.compiling(), progress.paused('online evaluation'):
      pass
    assert progress.update(2, 0.5, 0.0)['samples_per_second'] > 0
  assert capsys.readouterr() == ('', '')


def test_an_evaluation_does_not_count(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])
  with make(0, 10, 10) as progress:
    with progress.paused('online evaluation'):
      now[0] = 50.0
    now[0] = 51.0
    assert progress.update(5, 0.5, 0.0)['samples_per_second'] == 50.0
  assert capsys.readouterr().err.startswith('online evaluation ...\n')


class Computed:
  """A metric of a step, whose computation ends when `ready` is set."""

  def __init__(self):
    self.ready = False

  def is_ready(self):
    return self.ready


def test_steps_count_when_they_are_computed(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])
  ticks = []
  monkeypatch.setattr(module, 'every_second', lambda t: ticks.append(t) or contextlib.nullcontext())
  first, second = Computed(), Computed()
  with make(0, 20, 10) as progress:
    progress.dispatched(5, {'loss': first})
    progress.dispatched(10, {'loss': second})
    now[0] = 31.0
    ticks[0](31.0)
    assert capsys.readouterr().err == ''
    first.ready = True
    ticks[0](31.0)
    now[0] = 32.0
    second.ready = True
    ticks[0](32.0)
  assert capsys.readouterr().err == 'step 5/20  epoch 0.5\n'


def test_dispatched_steps_end_before_an_evaluation_begins(monkeypatch):
  waited = []
  monkeypatch.setattr(module.jax, 'block_until_ready', waited.append)
  metric = Computed()
  with make(0, 10, 10, enabled=False) as progress:
    progress.dispatched(5, {'loss': metric})
    with progress.paused('online evaluation'):
      assert waited == [metric]


def test_without_a_terminal_lines_become_rare(monkeypatch, capsys):
  seconds = []
  monkeypatch.setattr(activity_module, 'every_second', lambda tell: told(tell, seconds))
  seconds += [1, 4, 5, 6, 11, 19, 20, 41, 99, 101, 161]
  with activity('evaluating'):
    pass
  assert capsys.readouterr().err.splitlines() == [
    'evaluating ...',
    *(f'evaluating ... {s} s' for s in (5, 11, 20, 41, 101, 161)),
  ]


def test_only_the_innermost_activity_is_reported(monkeypatch, capsys):
  tells = []
  monkeypatch.setattr(
    activity_module, 'every_second', lambda tell: tells.append(tell) or contextlib.nullcontext()
  )
  with activity('outer'):
    with activity('inner', at_once=False):
      for tell in tells:
        tell(5)
    tells[0](10)
  lines = capsys.readouterr().err.splitlines()
  assert lines == ['outer ...', 'inner ... 5 s', 'outer ... 10 s']


@contextlib.contextmanager
def told(tell, seconds):
  for second in seconds:
    tell(second)
  yield


def test_it_tells_until_the_end(monkeypatch):
  monkeypatch.setattr(activity_module, '_PERIOD', 0.02)
  seen, third = [], threading.Event()

  def tell(seconds):
    seen.append(seconds)
    if len(seen) == 3:
      third.set()

  with activity_module.every_second(tell):
    assert third.wait(30)
  count = len(seen)
  assert seen == sorted(seen)
  time.sleep(0.1)
  assert len(seen) == count


@contextlib.contextmanager
def terminal(monkeypatch, columns, got):
  """Standard error is a terminal; all that it got is in `got` at the end."""
  master, slave = pty.openpty()
  termios.tcsetwinsize(slave, (24 if columns else 0, columns))
  with os.fdopen(slave, 'w') as file, monkeypatch.context() as patch:
    patch.setattr(sys, 'stderr', file)
    yield
  with contextlib.suppress(OSError):  # Linux ends a closed terminal by an error
    while part := os.read(master, 65536):
      got.append(part.decode())
  os.close(master)


@pytest.mark.parametrize('columns', [0, 80, 120])
def test_a_terminal_shows_the_bar_and_what_is_done(monkeypatch, columns):
  monkeypatch.setattr(activity_module, '_PERIOD', 0.02)
  got = []
  with terminal(monkeypatch, columns, got):
    with make(0, 20, 64) as progress:
      with progress.compiling():
        pass
      progress.evaluated({'online_knn_top1': 0.5, 'online_probe_top1': 1.0})
      progress.update(10, 0.5, 0.0)
    with activity('evaluating'):
      time.sleep(0.3)
  text = ''.join(got)
  assert 'compiling the training step' in text and ('10/20' in text) == (columns == 120)
  assert 'epoch 1.0, loss 0.5000' in text and 'kNN 50.0 %, probe 100.0 %' in text
  assert max(map(len, text.split('\r'))) <= (columns or 80) + 4
  assert 'evaluating ... 0 s' in text and text.endswith('\r\033[K')


def test_the_commands_that_follow():
  text = next_commands('/runs/a', 61.4)
  assert text.startswith('61 s. Next:') and text.count('--workdir=/runs/a') == 3
  assert '  clr-jax evaluate linear --workdir=/runs/a\n' in text
  text = next_commands('/runs/a', 61.4, labeled=False)
  assert text.count('--workdir=/runs/a') == 2 and 'evaluate' not in text
