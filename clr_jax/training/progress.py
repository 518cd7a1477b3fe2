"""Terminal output of a training run: a header, a progress bar, and the next commands."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from tqdm import tqdm

from clr_jax.core.activity import activity, every_second
from clr_jax.core.types import Metrics, RunInfo
from clr_jax.experiment.build import Experiment

# Metrics of the online evaluation by their labels.
_ONLINE = {'online_knn_top1': 'kNN', 'online_probe_top1': 'probe'}
_BAR = '{desc}{percentage:3.0f}% |{bar:12}| {n_fmt}/{total_fmt}, {remaining} left{postfix}'
_NARROW_BAR = '{desc}{percentage:3.0f}%, {remaining} left{postfix}'  # for all numbers in 80 columns
_NARROW = 110  # columns
_QUIET_SECONDS, _LONGEST_SECONDS = 10, 30  # between lines without a terminal


class Progress:
  """A progress bar with epoch, loss, speed, time left and the last accuracies.

  The bar counts the steps that have been computed, every second. Without a terminal a line is
  printed at most every 10 seconds, and at least every 30.

  Args:
    first, last: first and last step.
    info: facts about the run.
    enabled: False shows nothing.
  """

  def __init__(self, first: int, last: int, info: RunInfo, *, enabled: bool = True):
    self._batch_size, self._per_epoch = info.batch_size, info.steps_per_epoch
    self._last, self._step, self._time, self._waited = last, first, time.monotonic(), 0.0
    self._printed = 0.0
    self._numbers: list[str] = []
    self._scores: list[str] = []
    self._waiting: list[str] = []  # share of waiting for data, in a bar
    self._enabled = enabled and jax.process_index() == 0
    # Dispatched steps that may not have been computed yet, each with one of its metrics.
    self._pending: collections.deque[tuple[int, Any]] = collections.deque()
    self._newest: jax.Array | None = None
    self._done, self._lock = first, threading.Lock()
    bar = self._enabled and sys.stderr.isatty()
    columns = _columns() if bar else 0
    self._narrow = bar and columns < _NARROW
    self._bar = tqdm(
      total=last,
      initial=first,
      bar_format=_NARROW_BAR if self._narrow else _BAR,
      dynamic_ncols=bool(columns),
      ncols=None if columns else 80,
      nrows=None if columns else 24,  # in a terminal of 0 rows tqdm would show nothing
      disable=not bar,
    )
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> Progress:
    if self._enabled:
      self._stack.enter_context(every_second(self._tick))
    return self

  def __exit__(self, *exc) -> None:
    self._stack.close()
    self._bar.close()

  @contextlib.contextmanager
  def paused(self, what: str) -> Iterator[None]:
    """Shows another activity, such as an evaluation, and excludes its time from the speed."""
    jax.block_until_ready(self._newest)  # the time of dispatched steps counts
    start = time.monotonic()
    with self._doing(what):
      yield
    self._time += time.monotonic() - start

  @contextlib.contextmanager
  def _doing(self, what: str) -> Iterator[None]:
    if self._bar.disable:
      with activity(what, enabled=self._enabled):
        yield
    else:
      self._bar.set_description_str(f'{what} ')
      yield
      self._bar.set_description_str('')

  def compiling(self, now: bool = True) -> contextlib.AbstractContextManager[None]:
    """Context manager around a call of the step; shows that it compiles if it does."""
    return self._doing('compiling the training step') if now else contextlib.nullcontext()

  def dispatched(self, step: int, metrics: Metrics) -> None:
    """Notes that the steps before `step`, with these metrics, will be computed."""
    self._newest = jax.tree.leaves(metrics)[0]
    if self._enabled:
      self._pending.append((step, self._newest))

  def evaluated(self, scores: dict[str, float]) -> dict[str, float]:
    """Shows the accuracies of an online evaluation from now on and returns the scores."""
    known = {word: scores[name] for name, word in _ONLINE.items() if name in scores}
    self._scores = [f'{word} {100 * value:.1f} %' for word, value in known.items()]
    return scores

  def update(
    self, step: int, loss: float, waited: float, objective: float | None = None
  ) -> dict[str, float]:
    """Shows progress after `step` steps; returns samples/s and share of waiting since last time.

    Args:
      step: number of steps so far.
      loss: mean loss.
      waited: seconds of waiting for data so far.
      objective: minimized value, if the loss is a surrogate with its gradient, as SogCLR's is.
    """
    now = time.monotonic()
    seconds = max(now - self._time, 1e-9)
    speed = (step - self._step) * self._batch_size / seconds
    wait_share = min((waited - self._waited) / seconds, 1.0)
    unit = '/s' if self._narrow else ' samples/s'
    waiting = f'waiting for data {wait_share:.0%}'
    losses = [f'loss {loss:.4f}']
    if objective is not None:
      losses = [f'objective {objective:.4f}', f'surrogate loss {loss:.4f}'][: 2 - self._narrow]
    self._numbers = [*losses, f'{speed:.0f}{unit}']
    self._waiting = [waiting] if wait_share >= 0.01 and not self._bar.disable else []
    self._advance(step)
    last = step == self._last
    if self._bar.disable and (now - self._printed > _QUIET_SECONDS or last):
      left = (self._last - step) * self._batch_size / speed
      self._print(now, waiting, f'{left:.0f} s left')
    self._step, self._time, self._waited = step, now, waited
    return {'samples_per_second': speed, 'data_wait_share': wait_share}

  def _tick(self, seconds: float) -> None:
    """Shows the steps that have been computed since the last second."""
    del seconds
    done = self._done
    while self._pending and self._pending[0][1].is_ready():
      done = self._pending.popleft()[0]
    self._advance(done)
    if self._bar.disable and self._done > self._step:
      now = time.monotonic()
      if now - max(self._printed, self._time) > _LONGEST_SECONDS:
        self._print(now)

  def _advance(self, step: int) -> None:
    """Moves the bar to `step`, unless it is further; called by two threads."""
    with self._lock:
      self._bar.update(max(step - self._done, 0))
      self._done = max(step, self._done)
      if self._done:
        self._bar.set_postfix_str(', '.join([*self._shown(), *self._waiting]), refresh=False)
      self._bar.refresh()

  def _shown(self) -> list[str]:
    return [f'epoch {self._done / self._per_epoch:.1f}', *self._numbers, *self._scores]

  def _print(self, now: float, *more: str) -> None:
    if self._enabled:
      shown = [f'step {self._done}/{self._last}', *self._shown(), *more]
      print('  '.join(shown), file=sys.stderr, flush=True)
      self._printed = now


def _columns() -> int:
  """Width of the terminal on standard error; 0 if unknown."""
  try:
    return os.get_terminal_size(sys.stderr.fileno()).columns
  except (OSError, ValueError):
    return 0


def header(experiment: Experiment, directory: str, first: int, last: int) -> str:
  """Summary of the run for the terminal: method, data and workdir."""
  config, info = experiment.config, experiment.info
  devices = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
  resumed = f', from step {first:,}' if first else ''
  return (
    f'{config.method.name} with {config.model.name} on {config.data.name}: {last:,} steps of '
    f'{info.batch_size:,} images{resumed}, {config.precision}, {devices}; kept in {directory}'
  )


def next_commands(directory: str, seconds: float, *, labeled: bool = True) -> str:
  """The run time and the commands to continue with; without labels there is no evaluation."""
  commands = ['report --out=report.html', *['evaluate linear'] * labeled, 'export --out=FOLDER']
  lines = [f'  clr-jax {command} --workdir={directory}' for command in commands]
  return '\n'.join([f'{seconds:.0f} s. Next:', *lines])
