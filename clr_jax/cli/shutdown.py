"""Propagates a failure of one process, or a request to stop, to all processes of a run."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from typing import NoReturn

import jax

from clr_jax.core.consensus import coordination_store
from clr_jax.core.signals import STOPS, StopSignals, exit_now

_KEY = 'clr_jax/ended'  # key of 'PROCESS CODE' in the store of JAX's coordination service
_FINISHED = 'clr_jax/finished'
_FINISH_SECONDS = 3600
_POLL_SECONDS = 1.0
_WAIT_SECONDS = 10  # for the others to have noticed
_LEAVE_SECONDS = 60  # for the others to arrive, which may save first
# Written by JAX's preemption service when any process has received SIGTERM.
_NOTICE = 'RECEIVED_PREEMPTION_NOTICE'


class CoordinatedShutdown:
  """Watches in a thread, and ends all processes of `jax.distributed` when one fails or stops.

  A process that simply exits waits 5 minutes in JAX's shutdown barrier while the others wait in a
  collective, and then all are aborted with a stack trace. Instead the failed process writes its
  exit code to the coordination service's store, and all exit at once with that code.

  JAX's preemption service handles SIGTERM and notifies all processes: training loops agree on a
  step, and everywhere else each process ends when all have noticed.

  Args:
    stop: handler of other signals, which are converted to SIGTERM; None in a library call.
  """

  def __init__(self, stop: StopSignals | None):
    self._stop = stop
    if stop is not None:
      stop.pass_on = True
      stop.exit = self.leave
      stop.exit_at_once = self.fail
    self._client = coordination_store()
    self._ended = threading.Event()
    self._ending = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  def finish(self) -> None:
    """Waits for the others at the end of a command; they may still be stopped or fail."""
    with contextlib.suppress(Exception):  # one of them may be dead
      self._client.wait_at_barrier(_FINISHED, _FINISH_SECONDS * 1000)

  def close(self) -> None:
    """Stops watching; JAX's own shutdown follows."""
    self._ended.set()
    self._thread.join()

  def wait_if_ending(self) -> None:
    """Does not return if another process is ending this one, which caused the error here."""
    if self._ending.is_set():
      self._thread.join()

  def wait_for_other(self) -> None:
    """Waits a minute for the failed process to end this one with its code."""
    self._thread.join(_LEAVE_SECONDS)

  def fail(self, code: int) -> NoReturn:
    """Ends all processes, including this one, with `code`; pending saves must be complete."""
    self.close()
    with contextlib.suppress(Exception):  # another one was first, or the coordinator is gone
      self._client.key_value_set(_KEY, f'{jax.process_index()} {code}')
    self._exit(code)

  def leave(self, code: int) -> NoReturn:
    """Ends this process with `code` when all others are about to end for the same reason."""
    self._exit(code, wait_seconds=_LEAVE_SECONDS)

  def _watch(self) -> None:
    while not self._ended.wait(_POLL_SECONDS):
      if self._stop is not None and self._stop.received is None and self._get(_NOTICE):
        self._stop.ask(STOPS[signal.SIGTERM])
      failure = self._get(_KEY)
      if failure is None:
        continue
      process, code = failure.split()
      self._ending.set()
      print(
        f'clr-jax: exiting with code {code} because process {process} did: see its message',
        file=sys.stderr,
        flush=True,
      )
      self._exit(int(code))

  def _get(self, key: str) -> str | None:
    try:
      return self._client.key_value_try_get(key)
    except Exception:  # it is not there
      return None

  def _exit(self, code: int, wait_seconds: int = _WAIT_SECONDS) -> NoReturn:
    """Exits when all processes have arrived, process 0 last, bypassing JAX's barrier."""
    with contextlib.suppress(Exception):  # a process may be dead or hang
      self._client.wait_at_barrier(_KEY, wait_seconds * 1000)
    if jax.process_index() == 0:
      time.sleep(1)
    exit_now(code)
