"""SIGTERM, SIGHUP and Ctrl-C: requests to stop, which a thread answers wherever the program is.

A Python handler runs only when C++ returns to Python, and raises in the middle of whatever runs
there; a compilation takes minutes. So the handlers of a command only note the signal, and a thread,
to which the system tells it through `signal.set_wakeup_fd`, ends the process: with one line, after
what must be whole (`whole`, `before_end`), by `os._exit`. The interpreter is not finalized: with a
compiler's threads behind it, it would crash. The training loop takes a request itself, to save.

Imports nothing that takes time: a command installs this first of all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from clr_jax.core.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED


class Stop(NamedTuple):
  """Name of a request to stop, and the exit code for it."""

  name: str
  code: int


STOPS: Mapping[int, Stop] = {
  signal.SIGTERM: Stop('SIGTERM', EXIT_PREEMPTED),
  signal.SIGINT: Stop('Ctrl-C', EXIT_INTERRUPTED),
  # The terminal is gone; Windows has no such signal.
  **({signal.SIGHUP: Stop('SIGHUP', EXIT_PREEMPTED)} if hasattr(signal, 'SIGHUP') else {}),
}
_LOOP_SECONDS = 3.0  # that a training loop has to reach its next step before it is saved from here
_WHOLE_SECONDS = 5.0  # for what must be whole; a file system can hang
_FLUSH_SECONDS = 5.0  # for the output; a pipe can be full
_POLL_SECONDS = 0.1


def handled() -> list[int]:
  """The signals that are requests to stop: SIGHUP is none where it was ignored, as by nohup."""
  hangup = getattr(signal, 'SIGHUP', None)
  return [n for n in STOPS if n != hangup or signal.getsignal(n) is not signal.SIG_IGN]


@contextlib.contextmanager
def blocked() -> Iterator[None]:
  """Threads and processes that are started inside never see the requests to stop.

  A terminal and many schedulers send them to all processes of a command; the main one ends the
  others.
  """
  if not hasattr(signal, 'pthread_sigmask'):  # Windows
    yield
    return
  before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------- what is not cut
_changed = threading.Condition()
_whole = 0
_before_end: list[Callable[[], object]] = []


@contextlib.contextmanager
def whole() -> Iterator[None]:
  """A request to stop does not end the process inside, for a few seconds: a file is written."""
  global _whole
  with _changed:
    _whole += 1
  try:
    yield
  finally:
    with _changed:
      _whole -= 1
      _changed.notify_all()


@contextlib.contextmanager
def before_end(wait: Callable[[], object]) -> Iterator[None]:
  """A request to stop inside calls `wait` before it ends the process, in a thread of its own.

  Of several, the last one is called first.

  Args:
    wait: returns when what is being written is whole, as a checkpoint; it may take long.
  """
  _before_end.append(wait)
  try:
    yield
  finally:
    _before_end.remove(wait)


def exit_now(code: int) -> NoReturn:
  """Ends this process and its children without waiting for its threads, which print no more."""
  timer = threading.Timer(_FLUSH_SECONDS, os._exit, [code])
  timer.daemon = True
  timer.start()
  with contextlib.suppress(Exception):  # nobody else ends the readers of the data
    for child in sys.modules['multiprocessing'].active_children():
      child.kill()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(Exception):
      stream.flush()
  os._exit(code)


# ---------------------------------------------------------------- the thread
class StopSignals:
  """Ends this process when it is asked to stop; a context manager around a command.

  Only in the main thread, where handlers can be installed; elsewhere it does nothing.

  Args:
    ignored_after: the process ends with the command, whose exit code no later signal changes.

  Attributes:
    received: the first request, None without.
    exit: called with the code to end the process; it does not return.
    exit_at_once: the same after a second Ctrl-C.
    pass_on: the other requests go on as SIGTERM, which the processes of a run answer together.
  """

  def __init__(self, *, ignored_after: bool = False):
    self._ignored_after = ignored_after
    self.received: Stop | None = None
    self.exit: Callable[[int], Any] = exit_now
    self.exit_at_once: Callable[[int], Any] = exit_now
    self.pass_on = False
    self._in_loop = False
    self._rescue: Callable[[], bool] | None = None
    self._ending = threading.RLock()  # held by the thread that ends the process
    self._previous: dict[int, Any] = {}
    self._since = 0.0
    self._said = False

  def __enter__(self) -> StopSignals:
    global _current
    if threading.current_thread() is not threading.main_thread():
      return self
    self._reader, self._writer = socket.socketpair()
    self._writer.setblocking(False)
    threading.Thread(target=self._watch, name='clr_jax-signals', daemon=True).start()
    self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
    for number in handled():
      self._previous[number] = signal.signal(number, self._handle)
    _current = self
    return self

  def __exit__(self, *exc) -> None:
    global _current
    if not self._previous:
      return
    _current = None
    ignored = self._ignored_after and not self.pass_on  # those of several processes meet at the end
    for number, handler in self._previous.items():
      signal.signal(number, signal.SIG_IGN if ignored else handler)
    signal.set_wakeup_fd(self._previous_fd)
    self._writer.close()

  def claim(self) -> None:
    """Called by a thread that ends the process itself; returns unless another one does already."""
    self._ending.acquire()

  def ask(self, stop: Stop) -> None:
    """Ends the process, from any thread, as a signal to it would."""
    self._note(stop)
    self._wake()

  # ---------------------------------------------------------------- the training loop
  def take(self, stop: Stop | None) -> None:
    """Called by a training loop after every step; with a request it saves and ends the process."""
    self._rescue = None
    self._in_loop = True
    if stop is not None:
      self.claim()

  def rescue_by(self, save: Callable[[], bool]) -> None:
    """What saves the training from another thread if the loop does not call `take` in time.

    Args:
      save: returns whether the state was saved; it is not while a step has taken the state.
    """
    self._rescue = save

  def leave_loop(self) -> None:
    """From now on a request ends the process again."""
    self._rescue = None
    self._in_loop = False

  # ---------------------------------------------------------------- signals
  def _handle(self, number: int, frame: object) -> None:
    del frame
    if not self.pass_on:
      self._note(STOPS[number])
    self._wake()  # another event loop may have taken the wakeup descriptor

  def _note(self, stop: Stop) -> None:
    if self.received is None:
      self._since = time.monotonic()
      self.received = stop

  def _wake(self) -> None:
    with contextlib.suppress(OSError):
      self._writer.send(b'\0')

  def _watch(self) -> None:
    seen, started = False, False
    while True:
      try:
        numbers = self._reader.recv(64)
      except TimeoutError:
        numbers = b'\0'
      if not numbers:
        self._reader.close()
        return
      for number in numbers:
        if number not in STOPS:
          continue
        if seen and number == signal.SIGINT:
          self._say(STOPS[number])
          self.exit_at_once(STOPS[number].code)
        seen = True
        if not self.pass_on:
          self._note(STOPS[number])
        elif number != signal.SIGTERM:
          os.kill(os.getpid(), signal.SIGTERM)
      if self.received is not None and not started:
        self._reader.settimeout(_POLL_SECONDS)
        started = True
        # A thread of its own: a second Ctrl-C is heard while it waits.
        threading.Thread(target=self._answer, args=[self.received], daemon=True).start()

  def _answer(self, stop: Stop) -> None:
    while True:
      self.claim()
      if not self._in_loop or self._rescued():
        break
      self._ending.release()
      time.sleep(_POLL_SECONDS)
    for wait in reversed([*_before_end]):
      with contextlib.suppress(Exception):  # what was written before it stands
        wait()
    with _changed:
      _changed.wait_for(lambda: not _whole, _WHOLE_SECONDS)
    self._say(stop)
    self.exit(stop.code)

  def _rescued(self) -> bool:
    rescue = self._rescue
    if rescue is None or time.monotonic() < self._since + _LOOP_SECONDS:
      return False
    try:
      return rescue()
    except Exception:  # the step that takes the state began meanwhile: the loop saves after it
      self._rescue = None
      return False

  def _say(self, stop: Stop) -> None:
    if self._said:
      return
    self._said = True
    start = '\n' if os.isatty(2) else ''  # a progress bar may stand there
    line = f'{start}clr-jax: stopped by {stop.name}: the same command goes on\n'

    def write() -> None:
      with contextlib.suppress(OSError):
        os.write(2, line.encode())

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(_FLUSH_SECONDS)


_current: StopSignals | None = None


def current() -> StopSignals | None:
  """What handles the signals of this process; None in a library call or a notebook."""
  return _current
