"""Requests to stop, in this process: who answers them, and what is waited for."""

import os
import signal
import threading
import time

import pytest

from clr_jax.core import signals
from clr_jax.core.signals import STOPS, StopSignals

NUMBERS = {'SIGTERM': (signal.SIGTERM, 75), 'SIGHUP': (signal.SIGHUP, 75), 'Ctrl-C': (2, 130)}


class Ended(list):
  """The codes with which the process would have ended."""

  def wait(self, number=1):
    deadline = time.monotonic() + 20
    while len(self) < number and time.monotonic() < deadline:
      time.sleep(0.01)
    return [*self]


@pytest.fixture
def ended():
  return Ended()


@pytest.fixture
def stop(ended):
  hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started the tests
  try:
    with StopSignals() as stop:
      stop.exit = stop.exit_at_once = ended.append
      yield stop
  finally:
    signal.signal(signal.SIGHUP, hangup)


@pytest.mark.parametrize('name', NUMBERS)
def test_a_signal_ends_the_process_with_a_line_and_a_code(stop, ended, capfd, name):
  number, code = NUMBERS[name]
  os.kill(os.getpid(), number)
  assert ended.wait() == [code]
  assert capfd.readouterr().err == f'clr-jax: stopped by {name}: run the same command to resume\n'


def test_handlers_are_restored():
  before = [signal.getsignal(number) for number in STOPS]
  with StopSignals() as stop:
    assert signals.current() is stop
  assert [signal.getsignal(number) for number in STOPS] == before and signals.current() is None


def test_a_hangup_that_was_ignored_stays_ignored(ended):
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with StopSignals() as stop:
      stop.exit = ended.append
      os.kill(os.getpid(), signal.SIGHUP)
      time.sleep(0.05)
      assert stop.received is None and not ended
  finally:
    signal.signal(signal.SIGHUP, before)


def test_a_thread_answers_while_the_main_one_does_not_return_to_python(stop, ended):
  """The handler of Python is replaced by one that runs nothing, as during a compilation."""
  for number in STOPS:
    signal.signal(number, lambda *_: None)
  os.kill(os.getpid(), signal.SIGTERM)
  assert ended.wait() == [75]


def test_what_is_written_is_waited_for(stop, ended):
  written = []

  def wait():
    time.sleep(0.2)
    written.append(None)

  with signals.before_end(wait):
    with signals.whole():
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(0.2)
      assert not ended
    assert ended.wait() == [75] and written


def test_a_second_ctrl_c_does_not_wait(stop, ended, capfd):
  waits = threading.Event()
  with signals.before_end(waits.wait):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
    assert ended.wait() == [130]
    waits.set()
    assert ended.wait(2) == [130, 75]
  assert capfd.readouterr().err.count('\n') == 1


def test_a_loop_answers_itself(stop, ended):
  stop.take(None)
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(0.2)
  assert stop.received == ('SIGTERM', 75) and not ended
  stop.take(stop.received)  # from here on it saves and ends
  stop.leave_loop()
  stop.claim()  # by the same thread, where the command ends
  time.sleep(0.2)
  assert not ended


def test_a_request_after_the_loop_ends_the_process(stop, ended):
  stop.take(None)
  stop.leave_loop()
  os.kill(os.getpid(), signal.SIGTERM)
  assert ended.wait() == [75]


def test_a_loop_that_does_not_come_to_its_next_step_is_saved_by_the_thread(
  stop, ended, monkeypatch
):
  monkeypatch.setattr(signals, '_LOOP_SECONDS', 0.05)
  answers = iter([False, False, True])
  stop.take(None)
  stop.rescue_by(lambda: next(answers))
  os.kill(os.getpid(), signal.SIGTERM)
  assert ended.wait() == [75] and next(answers, None) is None


def test_a_loop_that_could_not_be_saved_saves_itself(stop, ended, monkeypatch):
  monkeypatch.setattr(signals, '_LOOP_SECONDS', 0.0)
  called = []

  def rescue():
    called.append(None)
    raise RuntimeError('the array is deleted')

  stop.take(None)
  stop.rescue_by(rescue)
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(0.3)
  stop.take(stop.received)
  assert len(called) == 1 and not ended


def test_processes_of_a_run_get_every_request_as_sigterm(stop, ended):
  """JAX's service owns SIGTERM there, and answers for all of them."""
  received = []
  signal.signal(signal.SIGTERM, lambda *_: received.append('SIGTERM'))
  stop.pass_on = True
  os.kill(os.getpid(), signal.SIGINT)
  deadline = time.monotonic() + 20
  while not received and time.monotonic() < deadline:
    time.sleep(0.01)
  assert received == ['SIGTERM'] and stop.received is None and not ended
  stop.ask(STOPS[signal.SIGTERM])
  assert ended.wait() == [75]


def test_blocked_signals_come_later(stop, ended):
  with signals.blocked():
    thread = threading.Thread(target=lambda: masks.append(signal.pthread_sigmask(0, [])))
    masks = []
    thread.start()
    thread.join()
  assert set(STOPS) <= masks[0] and not signal.pthread_sigmask(0, []) & set(STOPS)


def test_only_the_main_thread_handles_signals():
  before = [signal.getsignal(number) for number in STOPS]
  seen = []

  def enter():
    with StopSignals():
      seen.append(signals.current())

  thread = threading.Thread(target=enter)
  thread.start()
  thread.join()
  assert seen == [None] and [signal.getsignal(number) for number in STOPS] == before
