"""Progress messages of slow operations on the terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

_SECONDS = (5, 10, 20, 40)  # times of the first lines without a terminal
_PERIOD = 1.0  # seconds between updates in a terminal
_LATER = 60  # seconds between the later lines without a terminal
_shown: list[object] = []  # activities that have begun and not ended, the innermost last


@contextlib.contextmanager
def activity(what: str, *, enabled: bool = True, at_once: bool = True) -> Iterator[None]:
  """Reports an activity and its duration on standard error.

  In a terminal this is one line, updated every second and erased at the end. Otherwise a line is
  written at the start, after 5, 10, 20 and 40 seconds, and after each minute. Only the innermost of
  several activities is reported.

  Args:
    what: the activity, such as 'compiling the training step'.
    enabled: False prints nothing.
    at_once: False leaves out the line at the start, for activities that are often quick.
  """
  if not enabled:
    yield
    return
  own, terminal = object(), sys.stderr.isatty()
  tell = _line_in_place(what) if terminal else _lines(what, at_once)
  _shown.append(own)
  try:
    with every_second(lambda seconds: tell(seconds) if _shown[-1] is own else None):
      yield
  finally:
    _shown.remove(own)
    if terminal:
      _write('\r\033[K')


def _line_in_place(what: str) -> Callable[[float], object]:
  return lambda seconds: _write(f'\r\033[K{what} ... {seconds:.0f} s')


def _lines(what: str, at_once: bool) -> Callable[[float], object]:
  """Writes the line of the start; returns the function that writes the others when they are due."""
  due = iter(_SECONDS)
  following = next(due)

  def tell(seconds: float) -> None:
    nonlocal following
    if seconds >= following:
      _write(f'{what} ... {seconds:.0f} s\n')
      following = next(due, following + _LATER)

  if at_once:
    _write(f'{what} ...\n')
  return tell


@contextlib.contextmanager
def every_second(tell: Callable[[float], object]) -> Iterator[None]:
  """Calls `tell` with the seconds since the start, about once a second, in a thread."""
  start, ended = time.monotonic(), threading.Event()

  def run() -> None:
    while not ended.wait(_PERIOD):
      tell(time.monotonic() - start)

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()


def _write(text: str) -> None:
  with contextlib.suppress(OSError, ValueError):  # the terminal is gone
    sys.stderr.write(text)
    sys.stderr.flush()
