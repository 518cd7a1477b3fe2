"""Lock of a workdir, so that it holds one run at a time, and cleanup after a rejected run."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator

import jax
from etils import epath

from clr_jax.core import leases, signals
from clr_jax.core.consensus import from_process_0
from clr_jax.core.errors import EXIT_CANNOT_WRITE, UserError
from clr_jax.core.leases import EXPIRES_SECONDS, Lease, Seen
from clr_jax.core.locks import FileLock, LocksUnsupported
from clr_jax.core.storage import files_in, is_local, translate_errors
from clr_jax.rundir.codec import now
from clr_jax.rundir.workdir import FOLDERS, Workdir, refuse_no_place

_LOCK = '.lock'


@contextlib.contextmanager
def hold(run: Workdir) -> Iterator[None]:
  """Creates and locks the directory of a run, for all processes of the run together.

  A new run that ends with a UserError before its first checkpoint leaves nothing behind.

  Raises:
    UserError: another run has locked it, or it cannot be written.
  """
  # Such as a name that is too long, or a folder above that may not be looked into.
  with translate_errors(run.path), refuse_no_place(run):
    made = _missing_folders(run)
  try:
    with _held(run), _undone_if_refused(run):
      yield
  finally:
    for folder in made:  # removes those that are empty again
      with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def _held(run: Workdir) -> Iterator[None]:
  lock, refusal = None, ''
  if jax.process_index() == 0:
    try:
      lock = _lock_file(run) if is_local(run.path) else _lease_object(run)
    except UserError as error:  # all processes must raise it
      refusal = str(error)
  refusal = bytes(from_process_0(list(refusal.encode()))).decode()
  if refusal:
    raise UserError(refusal)
  with contextlib.ExitStack() as stack:
    if isinstance(lock, FileLock):
      stack.callback(lock.release, remove=True)  # if the process is killed, the lock ends with it
    elif lock is not None:
      stack.callback(lock.release)
      stack.enter_context(signals.before_end(lock.release))
    yield


def _lock_file(run: Workdir) -> FileLock | Lease:
  path = run.path / _LOCK
  with refuse_no_place(run):
    if os.path.lexists(run.path) and not run.path.is_dir():
      kind = 'a file' if run.path.exists() else 'a link to nothing'
      raise UserError(f'{run.path} is {kind}: give a directory as workdir')
    run.path.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
      if (run.path / name).is_dir():
        files_in(run.path / name)  # raises an error without permission, before hours of training
    if os.path.lexists(path) and not os.path.isfile(path):
      raise UserError(f'{path} is not a file: remove it, or give another workdir')
    lock = FileLock(path)
    try:
      held = lock.acquire()
    except LocksUnsupported:
      return _lease(run, leases.File(path.with_name('.lease')))
  if not held:
    raise _in_use(run, path.read_bytes())
  try:
    lock.write(_holder())
  except OSError as error:  # the disk is full
    lock.release(remove=True)
    raise OSError(error.errno, error.strerror, os.fspath(path)) from error
  return lock


def _lease_object(run: Workdir) -> Lease | None:
  """The lease in an object store; None in a store without conditional writes."""
  if not os.fspath(run.path).startswith('gs://'):
    return None
  with translate_errors(run.path):
    return _lease(run, leases.StoredObject(run.path / _LOCK))


def _lease(run: Workdir, place: leases.Place) -> Lease:
  def say(seen: Seen) -> None:
    wait = max(EXPIRES_SECONDS - seen.age, 0)
    print(
      f'{run.path} was in use {seen.age:.0f} s ago ({_told(seen.content)}): waiting up to '
      f'{wait:.0f} s to find out whether it still is',
      file=sys.stderr,
      flush=True,
    )

  def lost() -> None:
    print(
      f'clr-jax: another run has taken {run.path}, whose lease this run could not renew for '
      f'{EXPIRES_SECONDS:.0f} s: this run ends',
      file=sys.stderr,
      flush=True,
    )
    os._exit(EXIT_CANNOT_WRITE)  # further writes would mix two runs

  found = leases.acquire(place, _holder(), say=say, lost=lost)
  if isinstance(found, Seen):
    raise _in_use(run, found.content)
  return found


def _holder() -> bytes:
  who = {'host': socket.gethostname(), 'pid': os.getpid(), 'since': now()}
  return json.dumps({**who, 'token': secrets.token_hex(8)}).encode()


def _told(content: bytes) -> str:
  try:
    who = json.loads(content)
    return f'process {who["pid"]} on {who["host"]}, since {who["since"]}'
  except (ValueError, KeyError, TypeError):  # it is being written
    return 'another process'


def _in_use(run: Workdir, content: bytes) -> UserError:
  return UserError(
    f'{run.path} is in use by another run ({_told(content)}): wait for its end, stop it, or give '
    f'another workdir'
  )


# ---------------------------------------------------------------- cleanup after a rejected run
def _missing_folders(run: Workdir) -> list[pathlib.Path]:
  """The directory and its parents that do not exist yet, innermost first."""
  if not is_local(run.path) or jax.process_index():
    return []
  path = pathlib.Path(run.path)
  return [p for p in (path, *path.parents) if not p.exists()]


@contextlib.contextmanager
def _undone_if_refused(run: Workdir) -> Iterator[None]:
  before = {path.name for path in files_in(run.path)}
  # All processes together, because the first process begins to write.
  (new,) = from_process_0(['config.json' not in before])
  try:
    yield
  except UserError:
    if new and not any(path.name.isdigit() for path in files_in(run.checkpoints)):
      for path in files_in(run.path):
        # With several processes, another one may have written the files of the rejected run.
        if path.name not in before and path.name != _LOCK:
          _remove(path)
    raise


def _remove(path: epath.Path) -> None:
  with contextlib.suppress(OSError):
    if not path.is_dir():
      path.unlink()
    elif is_local(path):
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.rmtree()
