"""Interruption, watchdog, progress."""

import os
import signal
import time

import pytest

from clr_jax.training import callbacks
from clr_jax.training.callbacks import Interrupt, Watchdog


@pytest.mark.parametrize(
  ('number', 'name', 'code'), [(signal.SIGTERM, 'SIGTERM', 75), (signal.SIGINT, 'Ctrl-C', 130)]
)
def test_a_signal_becomes_a_request(number, name, code):
  before = signal.getsignal(number)
  with Interrupt() as interrupt:
    assert interrupt.requested() is None
    os.kill(os.getpid(), number)
    assert interrupt.requested() == (name, code)
  assert signal.getsignal(number) is before


def test_a_second_ctrl_c_is_not_held_back():
  with Interrupt() as interrupt:
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(1)
    assert interrupt.requested() == ('Ctrl-C', 130)


def test_ctrl_c_after_sigterm_is_an_interrupt_not_a_request():
  with Interrupt():
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(1)


def test_several_processes_number_their_calls_by_ones(monkeypatch):
  """JAX's service stops at the number after the highest asked about: no number may be left out."""
  asked = []
  monkeypatch.setattr(callbacks.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(
    callbacks.multihost_utils,
    'reached_preemption_sync_point',
    lambda number: asked.append(number) or number == 3,
  )
  before = signal.getsignal(signal.SIGTERM)
  with Interrupt() as interrupt:
    assert signal.getsignal(signal.SIGTERM) is before  # the service's own handler
    assert [interrupt.requested() for _ in range(3)] == [None, None, ('SIGTERM', 75)]
  assert asked == [1, 2, 3]


def test_watchdog_dumps_the_stacks_and_exits(capfd):
  codes = []
  with Watchdog(0.1, exit_fn=codes.append) as watchdog:
    watchdog.alive()
    deadline = time.monotonic() + 20
    while not codes and time.monotonic() < deadline:
      time.sleep(0.02)
  assert codes == [70]
  text = capfd.readouterr().err
  assert 'no step ended for 0.1 s' in text and 'test_watchdog_dumps' in text


@pytest.mark.slow
def test_watchdog_is_quiet_while_alive_paused_or_compiling(capfd):
  codes = []
  with Watchdog(1.0, exit_fn=codes.append) as watchdog:
    time.sleep(1.3)  # the first step compiles: ten times as long
    for _ in range(6):
      watchdog.alive()
      time.sleep(0.25)
    with watchdog.paused():
      time.sleep(1.3)
  with Watchdog(0, exit_fn=codes.append):
    time.sleep(0.05)
  assert not codes and not capfd.readouterr().err
