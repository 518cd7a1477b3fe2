"""SIGTERM, SIGHUP and Ctrl-C: requests to stop, handled by a thread.

A Python handler runs only when C++ returns to Python, where it raises at an arbitrary point, and a
compilation takes minutes. Therefore the handlers only record the signal, and a thread that is woken
through `signal.set_wakeup_fd` ends the process: it prints one line, waits for critical sections
(`whole`, `before_end`) and calls `os._exit`. The interpreter is not finalized, because it would
crash while compiler threads run. The training loop handles a request itself in order to save.

A command installs this first, so the module imports nothing slow.
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
  """A request to stop: its name and exit code."""

  name: str
  code: int


STOPS: Mapping[int, Stop] = {
  signal.SIGTERM: Stop('SIGTERM', EXIT_PREEMPTED),
  signal.SIGINT: Stop('Ctrl-C', EXIT_INTERRUPTED),
  # The terminal was closed; Windows has no such signal.
  **({signal.SIGHUP: Stop('SIGHUP', EXIT_PREEMPTED)} if hasattr(signal, 'SIGHUP') else {}),
}
_LOOP_SECONDS = 3.0  # time for a training loop to reach its next step before this thread saves
_WHOLE_SECONDS = 5.0  # time limit of critical sections; a file system can hang
_FLUSH_SECONDS = 5.0  # time limit for flushing the output; a pipe can be full
_POLL_SECONDS = 0.1


def handled() -> list[int]:
  """Signals that request a stop; without SIGHUP if it was ignored, as under nohup."""
  hangup = getattr(signal, 'SIGHUP', None)
  return [n for n in STOPS if n != hangup or signal.getsignal(n) is not signal.SIG_IGN]


@contextlib.contextmanager
def blocked() -> Iterator[None]:
  """Context manager: threads and processes started inside do not receive requests to stop.

  Terminals and many schedulers send signals to all processes of a command; the main process ends
  the others.
  """
  if not hasattr(signal, 'pthread_sigmask'):  # Windows
    yield
    return
  before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------- critical sections
_changed = threading.Condition()
_whole = 0
_before_end: list[Callable[[], object]] = []


@contextlib.contextmanager
def whole() -> Iterator[None]:
  """Context manager that delays the end of the process by a few seconds, to complete a file."""
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
  """Context manager: a request to stop calls `wait` in a thread before it ends the process.

  Nested calls run in reverse order.

  Args:
    wait: returns when pending writes, such as a checkpoint, are complete; may take long.
  """
  _before_end.append(wait)
  try:
    yield
  finally:
    _before_end.remove(wait)


def exit_now(code: int) -> NoReturn:
  """Ends this process and its children without waiting for its threads or their output."""
  timer = threading.Timer(_FLUSH_SECONDS, os._exit, [code])
  timer.daemon = True
  timer.start()
  with contextlib.suppress(Exception):  # nothing else would end the data readers
    for child in sys.modules['multiprocessing'].active_children():
      child.kill()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(Exception):
      stream.flush()
  os._exit(code)


# ---------------------------------------------------------------- the thread
class StopSignals:
  """Context manager around a command that ends the process when a stop is requested.

  Works only in the main thread, where handlers can be installed; elsewhere it does nothing.

  Args:
    ignored_after: ignore signals after the command, because the process ends with its exit code.

  Attributes:
    received: the first request, or None.
    exit: called with the exit code to end the process; does not return.
    exit_at_once: called instead of `exit` after a second Ctrl-C.
    pass_on: forward other requests as SIGTERM, which the processes of a run handle together.
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
    ignored = self._ignored_after and not self.pass_on  # several processes synchronize at the end
    for number, handler in self._previous.items():
      signal.signal(number, signal.SIG_IGN if ignored else handler)
    signal.set_wakeup_fd(self._previous_fd)
    self._writer.close()

  def claim(self) -> None:
    """Reserves the end of the process for the calling thread; blocks if another thread has it."""
    self._ending.acquire()

  def ask(self, stop: Stop) -> None:
    """Ends the process like a signal, from any thread."""
    self._note(stop)
    self._wake()

  # ---------------------------------------------------------------- the training loop
  def take(self, stop: Stop | None) -> None:
    """Called by the training loop after every step; the loop then handles the request `stop`."""
    self._rescue = None
    self._in_loop = True
    if stop is not None:
      self.claim()

  def rescue_by(self, save: Callable[[], bool]) -> None:
    """Sets how to save the training from another thread if the loop does not call `take` in time.

    Args:
      save: saves and returns True, or returns False while a step owns the state.
    """
    self._rescue = save

  def leave_loop(self) -> None:
    """Makes requests end the process again."""
    self._rescue = None
    self._in_loop = False

  # ---------------------------------------------------------------- signals
  def _handle(self, number: int, frame: object) -> None:
    del frame
    if not self.pass_on:
      self._note(STOPS[number])
    self._wake()  # another event loop may have replaced the wakeup descriptor

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
        # A separate thread, so that a second Ctrl-C is handled while it waits.
        threading.Thread(target=self._answer, args=[self.received], daemon=True).start()

  def _answer(self, stop: Stop) -> None:
    while True:
      self.claim()
      if not self._in_loop or self._rescued():
        break
      self._ending.release()
      time.sleep(_POLL_SECONDS)
    for wait in reversed([*_before_end]):
      with contextlib.suppress(Exception):  # earlier files remain
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
    except Exception:  # a step that owns the state began meanwhile: the loop saves after it
      self._rescue = None
      return False

  def _say(self, stop: Stop) -> None:
    if self._said:
      return
    self._said = True
    start = '\n' if os.isatty(2) else ''  # there may be a progress bar
    line = f'{start}clr-jax: stopped by {stop.name}: run the same command to resume\n'

    def write() -> None:
      with contextlib.suppress(OSError):
        os.write(2, line.encode())

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(_FLUSH_SECONDS)


_current: StopSignals | None = None


def current() -> StopSignals | None:
  """The active handler of this process; None in a library call or a notebook."""
  return _current
