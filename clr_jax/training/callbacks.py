"""Helpers of the training loop: interruption, watchdog, profiler."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils

from clr_jax.core import signals
from clr_jax.core.errors import EXIT_STALLED, UserError
from clr_jax.core.signals import STOPS, Stop
from clr_jax.core.storage import atomic_write, is_local


def owns_sigterm() -> bool:
  """True if clr_jax handles SIGTERM; with several processes JAX's preemption service does."""
  return jax.process_count() == 1


class Interrupt:
  """Turns SIGTERM, SIGHUP and Ctrl-C into a request that the loop reads between steps.

  A command handles the signals from its start (`StopSignals`), and until the first step has ended,
  because there is nothing to save before. In a library call they are handled here, and a second
  Ctrl-C raises KeyboardInterrupt as usual. Several processes agree on the step through JAX's
  preemption service, because all of them must write the same checkpoint.
  """

  def __init__(self):
    self._command = signals.current()
    self._received: Stop | None = None
    self._calls = 0
    self._previous = {}

  def __enter__(self):
    if self._command is None and threading.current_thread() is threading.main_thread():
      for number in signals.handled():
        if number == signal.SIGTERM and not owns_sigterm():
          continue
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc):
    if self._command is not None:
      self._command.leave_loop()
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number, frame):
    del frame
    if self._received is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._received = STOPS[number]
    if not owns_sigterm():
      # Without the service each process would stop at another step.
      os.kill(os.getpid(), signal.SIGTERM)

  def requested(self) -> Stop | None:
    """Returns the request to stop, or None; all processes must call this after every dispatch.

    If there is a request, the caller saves and ends the run.
    """
    # The service waits for a number one above all queried ones, so numbers of steps leave gaps.
    self._calls += 1
    if owns_sigterm():
      stop = self._command.received if self._command else self._received
    else:
      agreed = multihost_utils.reached_preemption_sync_point(self._calls)
      stop = STOPS[signal.SIGTERM] if agreed else None
    if self._command is not None:
      self._command.take(stop)
    return stop

  def rescue_by(self, save: Callable[[], bool]) -> None:
    """Sets how another thread saves the run if `requested` is not called for seconds.

    Evaluating, waiting for data and compiling a step take long, and none of them changes the state.
    Several processes must save together, so they continue to the next step instead.

    Args:
      save: saves the state and returns True if it could; valid until `requested` is called.
    """
    if self._command is not None and owns_sigterm():
      self._command.rescue_by(save)


class Watchdog:
  """Dumps all stacks and ends the process if `alive` was not called for `seconds` (0 = never).

  A hung collective or file system never returns to Python, so this uses a thread and a hard exit.
  The first limit is ten times as long, because it includes compilation.
  """

  def __init__(self, seconds: float, exit_fn=os._exit):
    self._seconds, self._exit = seconds, exit_fn
    self._deadline = time.monotonic() + 10 * seconds
    self._ended = threading.Event()

  def __enter__(self):
    if self._seconds:
      threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, *exc):
    self._ended.set()

  def alive(self) -> None:
    """Restarts the timer."""
    self._deadline = time.monotonic() + self._seconds

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Suspends the limit, for example during an evaluation."""
    self._deadline = float('inf')
    yield
    self.alive()

  def _watch(self) -> None:
    while not self._ended.wait(min(self._seconds / 4, 5)):
      if time.monotonic() > self._deadline:
        print(
          f'watchdog: no step ended for {self._seconds:g} s; all stacks follow, then exit code '
          f'{EXIT_STALLED}; run the same command to resume from the last checkpoint',
          file=sys.stderr,
          flush=True,
        )
        faulthandler.dump_traceback(file=sys.stderr)
        self._exit(EXIT_STALLED)
        return


def check_profile(steps: tuple[int, int], total_steps: int) -> None:
  """Raises a UserError for a range of steps, other than (0, 0), that holds no step of the run."""
  first, last = steps
  if last and not first < min(last, total_steps):
    raise UserError(
      f'profile={tuple(steps)} holds no step of this run of {total_steps} steps: give the first of '
      f'them and the one after the last, such as ({min(10, total_steps - 1)}, {total_steps})'
    )


class Profiler:
  """Traces the dispatches that overlap steps `first <= step < last` (none if last is 0).

  A run that resumes inside the range traces the rest of it; one that ends or fails inside keeps the
  partial trace. A context manager around the loop.

  Args:
    steps: (first, last) step.
    directory: folder of the trace; every process writes its own file.
  """

  def __init__(self, steps: tuple[int, int], directory: Any):
    self._first, self._last = steps
    self._directory = self._traced = os.fspath(directory)
    self._running = False
    self._result: Any = None

  def __enter__(self) -> Profiler:
    return self

  def __exit__(self, *exc) -> None:
    if self._running:
      with contextlib.suppress(Exception):  # the loop itself raises errors of the device
        jax.block_until_ready(self._result)
      self._stop()

  def before(self, step: int, count: int) -> None:
    """Starts the trace if the next dispatch, `count` steps from `step`, is the first in range."""
    if not self._running and step < self._last and step + count > self._first:
      if not is_local(self._directory):  # JAX may not be able to write to the store
        self._traced = tempfile.mkdtemp()
      jax.profiler.start_trace(self._traced)
      self._running = True

  def after(self, step: int, count: int, result: Any) -> None:
    """Stops the trace if this dispatch was the last in range; its `result` may not be ready."""
    if not self._running:
      return
    self._result = result
    if step + count >= self._last:
      jax.block_until_ready(result)  # otherwise the trace would end before the device starts
      self._stop()

  def _stop(self) -> None:
    self._running, self._result = False, None
    try:
      jax.profiler.stop_trace()
      if not is_local(self._directory):
        for path in filter(pathlib.Path.is_file, pathlib.Path(self._traced).rglob('*')):
          name = path.relative_to(self._traced).as_posix()
          atomic_write(epath.Path(self._directory) / name, path.read_bytes())
    finally:
      if not is_local(self._directory):
        shutil.rmtree(self._traced)
