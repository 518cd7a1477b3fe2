"""GPUs of a host that other sweeps use: a lock for each in the folder of temporary files."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

from clr_jax.cli.sweep.slots import Machine, Slot, gpu_names, make_slots
from clr_jax.core.errors import UserError
from clr_jax.core.locks import FileLock, LocksUnsupported


@contextlib.contextmanager
def held_slots(
  machine: Machine, jobs: int | None, devices_per_run: int | None
) -> Iterator[list[Slot]]:
  """Divides a machine as `make_slots`, without GPUs of other sweeps, and holds those that it uses.

  Sweeps of other users are not known.

  Raises:
    UserError: as `make_slots` does, or too few GPUs are free.
  """
  slots = make_slots(machine, jobs, devices_per_run)
  if machine.platform != 'gpu':
    yield slots
    return
  with contextlib.ExitStack() as stack:
    choosing, names = _lock('gpus', wait=True), gpu_names(machine.count)
    try:
      locks = {name: lock for name in names if (lock := _lock(f'gpu-{name}')) is not None}
      for lock in locks.values():
        stack.callback(lock.release, remove=True)
      taken = [name for name in names if name not in locks]
      if taken:
        slots = _without(taken, machine, jobs, devices_per_run, len(slots))
      used = {name for slot in slots for name in slot.gpus}
      for name in locks.keys() - used:
        locks[name].release(remove=True)
    finally:
      if choosing is not None:
        choosing.release()
    yield slots


def _without(
  taken: Sequence[str], machine: Machine, jobs: int | None, per_run: int | None, asked: int
) -> list[Slot]:
  free = (machine.count - len(taken)) // (per_run or 1)
  which = f'GPU{"s" * (len(taken) > 1)} {", ".join(taken)}'
  if not free:
    raise UserError(f'other sweeps use {which}: wait for their end')
  slots = make_slots(machine, min(jobs or free, free), per_run, taken=taken)
  if len(slots) < asked:
    print(f'other sweeps use {which}: {len(slots)} runs at once', file=sys.stderr, flush=True)
  return slots


def _lock(name: str, *, wait: bool = False) -> FileLock | None:
  """A lock of this user, held; None if another process holds it."""
  user = os.getuid() if hasattr(os, 'getuid') else ''
  lock = FileLock(pathlib.Path(tempfile.gettempdir()) / f'clr_jax-{user}-{name}.lock')
  with contextlib.suppress(LocksUnsupported, OSError):  # then nothing is known of other sweeps
    return lock if lock.acquire(wait=wait) else None
  return lock
