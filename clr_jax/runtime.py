"""What surrounds the training loop: interruption, watchdog, progress, profiler."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils
from tqdm import tqdm

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: a launcher starts the same command again
EXIT_INTERRUPTED = 130  # the shell's code for Ctrl-C
EXIT_STALLED = 70  # EX_SOFTWARE: the watchdog ended the process


class Signal(NamedTuple):
  name: str
  code: int


class Interrupt:
  """Turns SIGTERM and Ctrl-C into a request that the loop reads between two steps.

  A second Ctrl-C raises KeyboardInterrupt as usual. With several processes they agree on the step
  through JAX's preemption service, because all of them must write the same checkpoint.
  """

  _SIGNALS = {
    signal.SIGTERM: Signal('SIGTERM', EXIT_PREEMPTED),
    signal.SIGINT: Signal('Ctrl-C', EXIT_INTERRUPTED),
  }

  def __init__(self):
    self._received: Signal | None = None
    self._previous = {}

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      for number in self._SIGNALS:
        if jax.process_count() > 1 and number == signal.SIGTERM:
          continue  # JAX's service has its own handler
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number, frame):
    del frame
    if self._received is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._received = self._SIGNALS[signal.Signals(number)]

  def requested(self, step: int) -> Signal | None:
    """What asked for a stop, or None; `step` is the number of steps done."""
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      return self._SIGNALS[signal.SIGTERM]
    return self._received


class Watchdog:
  """Dumps all stacks and ends the process when `alive` was not called for `seconds` (0 = never).

  A hung collective or file system never returns to Python, so this is a thread and a hard exit.
  The first wait is ten times as long: it includes compiling.
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
    self._deadline = time.monotonic() + self._seconds

  def pause(self) -> None:
    """No limit until the next `alive`: evaluation takes as long as it takes."""
    self._deadline = float('inf')

  def _watch(self) -> None:
    while not self._ended.wait(min(self._seconds / 4, 5)):
      if time.monotonic() > self._deadline:
        print(
          f'watchdog: no step ended for {self._seconds:g} s; stacks follow, then exit code '
          f'{EXIT_STALLED}; the same command resumes from the last checkpoint',
          file=sys.stderr,
          flush=True,
        )
        faulthandler.dump_traceback(file=sys.stderr)
        self._exit(EXIT_STALLED)
        return


class Progress:
  """A progress bar with loss, samples/s, share of time waiting for data, and time left.

  Without a terminal it prints a line at most every 10 seconds.
  """

  def __init__(self, first: int, last: int, batch_size: int, *, enabled: bool = True):
    self._batch_size = batch_size
    self._last, self._step, self._time, self._waited = last, first, time.monotonic(), 0.0
    self._printed = 0.0
    self._enabled = enabled and jax.process_index() == 0
    bar = self._enabled and sys.stderr.isatty()
    self._bar = tqdm(total=last, initial=first, unit='step', dynamic_ncols=True, disable=not bar)

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self._bar.close()

  def update(self, step: int, loss: float, waited: float) -> dict[str, float]:
    """Shows the state after `step` steps; returns samples/s and data-wait share since last time."""
    now = time.monotonic()
    seconds = max(now - self._time, 1e-9)
    speed = (step - self._step) * self._batch_size / seconds
    wait_share = min((waited - self._waited) / seconds, 1.0)
    self._bar.update(step - self._step)
    self._bar.set_postfix_str(f'loss {loss:.4f}, {speed:.0f} samples/s, data {wait_share:.0%}')
    if self._enabled and self._bar.disable and (now - self._printed > 10 or step == self._last):
      left = (self._last - step) * self._batch_size / speed
      print(
        f'step {step}/{self._last}  loss {loss:.4f}  {speed:.0f} samples/s  '
        f'waiting for data {wait_share:.0%}  {left:.0f} s left',
        file=sys.stderr,
        flush=True,
      )
      self._printed = now
    self._step, self._time, self._waited = step, now, waited
    return {'samples_per_second': speed, 'data_wait_share': wait_share}


@contextlib.contextmanager
def profiler(steps: tuple[int, int], directory, step: int, count: int):
  """Traces the dispatches that overlap steps `first <= step < last` (none if last is 0)."""
  first, last = steps
  if last and step <= first < step + count:
    jax.profiler.start_trace(str(directory))
  yield
  if last and step < last <= step + count:
    jax.profiler.stop_trace()
