"""Decisions that all processes of a run make alike."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils


def from_process_0(numbers: Sequence[int]) -> list[int]:
  """The integers that process 0 gives, in all processes, which all must call this.

  What depends on files is decided so: a file may appear between the looks of two processes, and
  those that go different ways wait for each other forever.
  """
  if jax.process_count() == 1:
    return list(numbers)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
  own = np.zeros(size, np.int32)
  if jax.process_index() == 0:
    own[:] = numbers
  return multihost_utils.broadcast_one_to_all(own).tolist() if size else []


def in_all_processes(flag: bool) -> bool:
  """Whether the flag is set in every process; all must call this."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.bool_(flag)).all())
