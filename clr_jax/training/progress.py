"""Terminal output of a training run: a header, a progress bar, and the next commands."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

import jax
from tqdm import tqdm

from clr_jax.core.activity import activity, every_second
from clr_jax.core.types import RunInfo
from clr_jax.experiment.build import Experiment

# Metrics of the online evaluation by their labels.
_ONLINE = {'online_knn_top1': 'kNN', 'online_probe_top1': 'probe'}
_BAR = '{desc}{percentage:3.0f}% |{bar:12}| {n_fmt}/{total_fmt}, {remaining} left{postfix}'
_NARROW_BAR = '{desc}{percentage:3.0f}%, {remaining} left{postfix}'  # for all numbers in 80 columns
_NARROW = 110  # columns
_QUIET_SECONDS = 10  # between lines without a terminal


class Progress:
  """A progress bar with epoch, loss, speed, time left and the last accuracies.

  It is updated every second; without a terminal it prints a line at most every 10 seconds.

  Args:
    first, last: first and last step.
    info: facts about the run.
    enabled: False shows nothing.
  """

  def __init__(self, first: int, last: int, info: RunInfo, *, enabled: bool = True):
    self._batch_size, self._per_epoch = info.batch_size, info.steps_per_epoch
    self._last, self._step, self._time, self._waited = last, first, time.monotonic(), 0.0
    self._printed = 0.0
    self._scores: list[str] = []
    self._enabled = enabled and jax.process_index() == 0
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
    if not self._bar.disable:
      self._stack.enter_context(every_second(lambda _: self._bar.refresh()))
    return self

  def __exit__(self, *exc) -> None:
    self._stack.close()
    self._bar.close()

  @contextlib.contextmanager
  def paused(self, what: str) -> Iterator[None]:
    """Shows another activity, such as an evaluation, and excludes its time from the speed."""
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

  def evaluated(self, scores: dict[str, float]) -> dict[str, float]:
    """Shows the accuracies of an online evaluation from now on and returns the scores."""
    known = {word: scores[name] for name, word in _ONLINE.items() if name in scores}
    self._scores = [f'{word} {100 * value:.1f} %' for word, value in known.items()]
    return scores

  def update(self, step: int, loss: float, waited: float) -> dict[str, float]:
    """Shows progress after `step` steps; returns samples/s and share of waiting since last time."""
    now = time.monotonic()
    seconds = max(now - self._time, 1e-9)
    speed = (step - self._step) * self._batch_size / seconds
    wait_share = min((waited - self._waited) / seconds, 1.0)
    unit = '/s' if self._narrow else ' samples/s'
    shown = [f'epoch {step / self._per_epoch:.1f}', f'loss {loss:.4f}', f'{speed:.0f}{unit}']
    shown += self._scores
    waiting = f'waiting for data {wait_share:.0%}'
    self._bar.update(step - self._step)
    self._bar.set_postfix_str(', '.join([*shown, *[waiting] * (wait_share >= 0.01)]))
    last = step == self._last
    if self._enabled and self._bar.disable and (now - self._printed > _QUIET_SECONDS or last):
      left = (self._last - step) * self._batch_size / speed
      shown = [f'step {step}/{self._last}', *shown, waiting, f'{left:.0f} s left']
      print('  '.join(shown), file=sys.stderr, flush=True)
      self._printed = now
    self._step, self._time, self._waited = step, now, waited
    return {'samples_per_second': speed, 'data_wait_share': wait_share}


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


def next_commands(directory: str, seconds: float) -> str:
  """The run time and the commands to continue with."""
  workdir = f'--workdir={directory}'
  return f"""\
{seconds:.0f} s. Next:
  clr-jax report {workdir} --out=report.html
  clr-jax evaluate linear {workdir}
  clr-jax export {workdir} --out=FOLDER"""
