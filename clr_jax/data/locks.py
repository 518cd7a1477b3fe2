"""Locks for work on shared files that one process does while the others wait."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from etils import epath

from clr_jax.core.storage import is_local


@contextlib.contextmanager
def one_at_a_time(*places: epath.Path) -> Iterator[None]:
  """Held by one process at a time of those that name the same files, and says when it waits.

  The processes of a run start together: one does the work and the others find it done.

  Args:
    places: lock files; the first that can be locked is. None in an object store, on Windows.
  """
  with contextlib.ExitStack() as stack:
    for place in filter(is_local, places):
      with contextlib.suppress(ImportError, OSError):  # Windows; read-only, or without locks
        import fcntl

        place.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(open(place, 'a'))
        try:
          fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
          print(
            f'Waiting for another process that prepares data in {place.parent} ...',
            file=sys.stderr,
            flush=True,
          )
          fcntl.flock(file, fcntl.LOCK_EX)  # the system releases it when the process ends, however
        break
    yield
