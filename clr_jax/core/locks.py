"""Locks on files of a disk: held by one process, and free when it ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from etils import epath

from clr_jax.core.storage import is_local

_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
_held: set[int] = set()  # descriptors


class LocksUnsupported(Exception):
  """The file system (or Windows) has no locks."""


class FileLock:
  """`flock` on a file, which is made if needed.

  Children do not hold it: those that are forked close it, and programs that are started do not get
  it.
  """

  def __init__(self, path: epath.PathLike):
    self._path = os.fspath(path)
    self._descriptor: int | None = None

  def acquire(self, *, wait: bool = False) -> bool:
    """Whether this process holds it now; `wait` until it does.

    Raises:
      LocksUnsupported: nothing can be locked there.
      OSError: the file cannot be opened.
    """
    try:
      import fcntl  # not on Windows
    except ImportError as error:
      raise LocksUnsupported from error

    while True:
      descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
      try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if self._is_at_path(descriptor):
          self._descriptor = descriptor
          _held.add(descriptor)
          return True
      except BlockingIOError:
        return False
      except OSError as error:
        if error.errno not in _UNSUPPORTED:
          raise
        raise LocksUnsupported(error.strerror) from error
      finally:
        if self._descriptor != descriptor:
          os.close(descriptor)

  def write(self, content: bytes) -> None:
    """Puts into the held file who holds it."""
    assert self._descriptor is not None
    os.truncate(self._descriptor, 0)
    os.pwrite(self._descriptor, content, 0)

  def release(self, *, remove: bool = False) -> None:
    """Lets another process have it; `remove` deletes the file."""
    if self._descriptor is None:
      return
    if remove and self._is_at_path(self._descriptor):
      with contextlib.suppress(OSError):
        os.unlink(self._path)
    import fcntl  # it is there: the lock was acquired

    fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # also where a new child has not closed it yet
    _held.discard(self._descriptor)
    os.close(self._descriptor)
    self._descriptor = None

  def _is_at_path(self, descriptor: int) -> bool:
    """False if the one who held it has removed the file meanwhile."""
    try:
      return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
    except FileNotFoundError:
      return False


def _forget_in_child() -> None:
  # Only closed: to unlock it would unlock it for the parent, too.
  for descriptor in _held:
    with contextlib.suppress(OSError):
      os.close(descriptor)
  _held.clear()


if hasattr(os, 'register_at_fork'):
  os.register_at_fork(after_in_child=_forget_in_child)


@contextlib.contextmanager
def one_at_a_time(*places: epath.Path) -> Iterator[None]:
  """Held by one process at a time of those that name the same files, and says when it waits.

  The processes of a run start together: one does the work and the others find it done.

  Args:
    places: lock files; the first that can be locked is. None in an object store, on Windows.
  """
  lock = None
  for place in filter(is_local, places):
    with contextlib.suppress(LocksUnsupported, OSError):  # read-only, too
      place.parent.mkdir(parents=True, exist_ok=True)
      lock = FileLock(place)
      if not lock.acquire():
        print(
          f'Waiting for another process that prepares data in {place.parent} ...',
          file=sys.stderr,
          flush=True,
        )
        lock.acquire(wait=True)
      break
  try:
    yield
  finally:
    if lock is not None:
      lock.release()
