"""The steps at which a run logs, evaluates and saves, and the grouping of steps into dispatches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from clr_jax.core.config_tree import Config
from clr_jax.core.types import RunInfo


class Cadence(NamedTuple):
  """Periods in steps; 0 = never (except evaluation and saving at the end)."""

  log: int
  evaluate: int
  save: int


def cadence_of(config: Config, info: RunInfo) -> Cadence:
  """Periods of a config in steps; those given in epochs are rounded, to at least one step."""

  def in_steps(epochs: float) -> int:
    return max(round(epochs * info.steps_per_epoch), 1) if epochs else 0

  return Cadence(config.log_every, in_steps(config.eval_every), in_steps(config.checkpoint_every))


def last_step(config: Config, info: RunInfo) -> int:
  """Number of steps after which this start of the run ends."""
  if config.stop_at_epoch is None:
    return info.total_steps
  return min(max(round(config.stop_at_epoch * info.steps_per_epoch), 1), info.total_steps)


def plan(first: int, last: int, cadence: Cadence, size: int) -> Iterator[tuple[int, int]]:
  """Yields (step, count) of every dispatch: `count` is `size` or 1, with no event inside.

  Dispatches are on a grid that does not depend on where a run was resumed, so that the same
  compiled programs run over the same steps; only a dispatch cut by `first` is done step by step.
  """
  periods = [p for p in cadence if p]
  step = 0
  while step < last:
    boundary = min([last, *(step + p - step % p for p in periods)])
    while step < boundary:
      count = size if boundary - step >= size else 1
      if step >= first:
        yield step, count
      else:  # nothing, or the rest of a dispatch cut by another `last` or `size`
        yield from ((cut, 1) for cut in range(first, step + count))
      step += count


def due(step: int, period: int, done: bool) -> bool:
  """True if an event with this period happens after `step` steps; `done` marks the last step."""
  return done or bool(period and step % period == 0)
