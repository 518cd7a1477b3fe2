"""The processes of a sweep: started one for each free slot, and ended together."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from clr_jax.cli.sweep.slots import Slot
from clr_jax.core import signals
from clr_jax.core.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED

_POLL_SECONDS = 0.1
_AT_ONCE_SECONDS = 10  # for runs that end at a second Ctrl-C
RESUMABLE = (EXIT_PREEMPTED, EXIT_INTERRUPTED)


class Job(NamedTuple):
  """A command of a sweep.

  Attributes:
    name: name of the run.
    command: program and arguments, for a slot.
    log: file to which the output is appended.
  """

  name: str
  command: Callable[[Slot], Sequence[str]]
  log: pathlib.Path


class Ended(NamedTuple):
  """The end of a job: its exit code (negative for a signal) and its seconds."""

  job: Job
  code: int
  seconds: float


def run_jobs(
  jobs: Sequence[Job],
  slots: Sequence[Slot],
  *,
  started: Callable[[Job], object],
  ended: Callable[[Ended], object],
) -> bool:
  """Runs all jobs, at most one in each slot at a time.

  A request to stop this process (see `clr_jax.core.signals`) is passed on to all running jobs, and
  this process waits for them; a second Ctrl-C ends them at once.

  Args:
    jobs: the jobs in order.
    slots: the places.
    started: called when a job starts.
    ended: called when a job has ended.

  Returns:
    False if a request to stop came before all were done.
  """
  children = _Children()
  stop = signals.current()
  with signals.before_end(lambda: children.stop(stop)), _at_once(stop, children):
    waiting, free = list(jobs), list(slots)
    while waiting or children.running:
      while waiting and free and not children.stopping:
        slot = free.pop(0)
        if children.start(waiting[0], slot):
          started(waiting.pop(0))
      for slot, end in children.take_ended():
        free.insert(0, slot)
        ended(end)
      if children.stopping and not children.running:
        return False
      time.sleep(_POLL_SECONDS)
  return not children.stopping


@contextlib.contextmanager
def _at_once(stop: signals.StopSignals | None, children: _Children) -> Iterator[None]:
  """Makes a second Ctrl-C end the children, too."""
  if stop is None:
    yield
    return
  before = stop.exit_at_once

  def end(code: int) -> None:
    children.interrupt_again()
    before(code)

  stop.exit_at_once = end
  try:
    yield
  finally:
    stop.exit_at_once = before


class _Running(NamedTuple):
  process: subprocess.Popen[bytes]
  job: Job
  slot: Slot
  since: float


class _Children:
  """Running processes, and whether they are being stopped; used by two threads."""

  def __init__(self):
    self.running: list[_Running] = []
    self.stopping = False
    self._lock = threading.Lock()

  def start(self, job: Job, slot: Slot) -> bool:
    """Starts a process in a session of its own, which a terminal's Ctrl-C does not reach."""
    with self._lock:
      if self.stopping:
        return False
      with job.log.open('ab') as log:
        process = subprocess.Popen(
          job.command(slot),
          env={**os.environ, **slot.environment},
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=subprocess.STDOUT,
          start_new_session=True,
        )
      self.running.append(_Running(process, job, slot, time.monotonic()))
    return True

  def take_ended(self) -> list[tuple[Slot, Ended]]:
    """Returns the processes that have ended, and forgets them."""
    with self._lock:
      done = [each for each in self.running if each.process.poll() is not None]
      self.running = [each for each in self.running if each not in done]
    return [
      (slot, Ended(job, process.returncode, time.monotonic() - since))
      for process, job, slot, since in done
    ]

  def stop(self, stop: signals.StopSignals | None) -> None:
    """Passes a request to stop on, and waits until all processes have saved and ended."""
    received = None if stop is None else stop.received
    by_ctrl_c = received is not None and received.code == EXIT_INTERRUPTED
    with self._lock:
      self.stopping = True
      running = list(self.running)
    _send(running, signal.SIGINT if by_ctrl_c else signal.SIGTERM)
    for each in running:
      each.process.wait()

  def interrupt_again(self) -> None:
    """Ends the processes at once."""
    running = list(self.running)
    _send(running, signal.SIGINT)
    deadline = time.monotonic() + _AT_ONCE_SECONDS
    while any(each.process.poll() is None for each in running) and time.monotonic() < deadline:
      time.sleep(_POLL_SECONDS)
    _send(running, signal.SIGKILL)


def _send(running: Sequence[_Running], number: int) -> None:
  for each in running:
    with contextlib.suppress(ProcessLookupError):
      each.process.send_signal(number)


def exit_code(codes: Mapping[str, int]) -> int:
  """Exit code of the sweep: 0, a code that asks for the same command, or that of the first failure.

  Args:
    codes: exit codes by the name of the run.
  """
  failed = [code for code in codes.values() if code]
  return next((code for code in failed if code in RESUMABLE), failed[0] if failed else 0)
