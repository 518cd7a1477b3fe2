"""Decisions that must be the same in all processes of a run."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from clr_jax.core.errors import OtherProcessFailed

T = TypeVar('T')

_FIRST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.001, 0.1
_series = itertools.count()  # of this process; all of a run begin theirs in the same order


def from_process_0(numbers: Sequence[int]) -> list[int]:
  """Broadcasts integers from process 0; all processes must call this.

  Use it for decisions that depend on files: a file may appear between the checks of two processes,
  and processes that take different branches wait for each other forever.
  """
  if jax.process_count() == 1:
    return list(numbers)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
  own = np.zeros(size, np.int32)
  if jax.process_index() == 0:
    own[:] = numbers
  return multihost_utils.broadcast_one_to_all(own).tolist() if size else []


def in_all_processes(flag: bool) -> bool:
  """True if the flag is set in every process; all processes must call this."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.bool_(flag)).all())


def coordination_store() -> Any:
  """The client of the store of JAX's coordination service, None with a single process."""
  from jax._src import distributed  # no public way to it; Orbax takes the same one

  return distributed.global_state.client


class Lockstep:
  """Lets each process of a run use its item n once all processes have made theirs.

  If a process cannot make an item, all stop before it, and can still save together: a process that
  continued alone would wait forever in its next computation. The processes communicate through the
  store of JAX's coordination service, so that no device waits. All must make their items in the
  same order.

  Args:
    enabled: False where making an item cannot fail.
  """

  def __init__(self, *, enabled: bool = True):
    self._several = enabled and jax.process_count() > 1
    self._store: Any = coordination_store() if self._several else None
    self._prefix = f'clr_jax/lockstep/{next(_series)}'
    self._made_by_all = 0

  def tell(self, items: Generator[T, None, None]) -> Generator[T, None, None]:
    """Yields the items; reports each of them, and an error, to the other processes."""
    with contextlib.closing(items):
      number = 0
      try:
        for item in items:
          number += 1
          self._put('made', number)
          yield item
      except Exception:
        self._put('failed', number)
        raise

  def wait(self, number: int) -> None:
    """Returns when all processes have made item `number` (from 0 on).

    Raises:
      OtherProcessFailed: one of them cannot make it.
    """
    seconds = _FIRST_POLL_SECONDS
    while self._several and number >= self._made_by_all:
      found = self._look()
      for (what, process), value in found.items():
        if what == 'failed' and value <= number:
          raise OtherProcessFailed(int(process))
      made = [found.get(('made', str(i)), 0) for i in range(jax.process_count())]
      self._made_by_all = min(made)
      if number >= self._made_by_all:
        time.sleep(seconds)
        seconds = min(2 * seconds, _LONGEST_POLL_SECONDS)

  def _put(self, what: str, number: int) -> None:
    if self._several:
      key = f'{self._prefix}/{what}/{jax.process_index()}'
      self._store.key_value_set(key, str(number), allow_overwrite=True)

  def _look(self) -> dict[tuple[str, str], int]:
    """(what, process) -> number."""
    rows = self._store.key_value_dir_get(self._prefix)
    return {tuple(key.rsplit('/', 2)[1:]): int(value) for key, value in rows}
