"""File locks on a disk, held by one process and released whenever it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from etils import epath

from clr_jax.core.storage import is_local

_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
_held: set[int] = set()  # file descriptors


class LocksUnsupported(Exception):
  """Raised where the file system (or Windows) has no locks."""


class FileLock:
  """`flock` on a file, which is created if needed.

  Child processes do not hold it: forked ones close it, and started programs do not inherit it.
  """

  def __init__(self, path: epath.PathLike):
    self._path = os.fspath(path)
    self._descriptor: int | None = None

  def acquire(self, *, wait: bool = False) -> bool:
    """Returns True if this process now holds the lock; with `wait` blocks until it does.

    Raises:
      LocksUnsupported: files cannot be locked there.
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
    """Writes the holder's identification to the locked file."""
    assert self._descriptor is not None
    os.truncate(self._descriptor, 0)
    os.pwrite(self._descriptor, content, 0)

  def release(self, *, remove: bool = False) -> None:
    """Releases the lock; `remove` deletes the file."""
    if self._descriptor is None:
      return
    if remove and self._is_at_path(self._descriptor):
      with contextlib.suppress(OSError):
        os.unlink(self._path)
    import fcntl  # not on Windows

    fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a new child may not have closed it yet
    _held.discard(self._descriptor)
    os.close(self._descriptor)
    self._descriptor = None

  def _is_at_path(self, descriptor: int) -> bool:
    """False if the previous holder has removed the file."""
    try:
      return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
    except FileNotFoundError:
      return False


def _forget_in_child() -> None:
  # Close only: unlocking would release the parent's lock, too.
  for descriptor in _held:
    with contextlib.suppress(OSError):
      os.close(descriptor)
  _held.clear()


if hasattr(os, 'register_at_fork'):
  os.register_at_fork(after_in_child=_forget_in_child)


@contextlib.contextmanager
def one_at_a_time(*places: epath.Path) -> Iterator[None]:
  """Lets one process at a time into the context; prints a line when it waits.

  The processes of a run start together: one does the work and the others find it done.

  Args:
    places: lock files, of which the first that can be locked is used. Object stores and Windows
      have no locks.
  """
  lock = None
  for place in filter(is_local, places):
    with contextlib.suppress(LocksUnsupported, OSError):  # such as a read-only disk
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
