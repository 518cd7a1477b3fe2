"""Files on a disk or in an object store (gs://...): atomic writes, readable errors."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator

from etils import epath

from clr_jax.core import signals
from clr_jax.core.errors import UserError

_UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)  # as a path, whatever the rights
_BUGS = (TypeError, AttributeError, NameError, KeyError, AssertionError)  # never a store's answer


def is_local(path: epath.PathLike) -> bool:
  """False in an object store ('gs://...')."""
  return '://' not in os.fspath(path)


def check_path(path: epath.PathLike) -> None:
  """UserError for a path that is neither on a disk nor in an object store that is supported."""
  text = os.fspath(path)
  scheme, separator, _ = text.partition('://')
  if separator and scheme != 'gs':
    raise UserError(
      f'{text} cannot be used: only local paths and gs:// are supported, so give one of them'
    )
  if '\0' in text:
    raise UserError(f'{text!r} cannot be used: a path has no null byte, give another one')


def cache_folder() -> pathlib.Path:
  """Folder of the user's for what can be made again: $XDG_CACHE_HOME or ~/.cache, /clr_jax."""
  return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'clr_jax'


def atomic_write(path: epath.Path, content: str | bytes) -> None:
  """Writes a file, and makes its folder; readers see it complete or not at all.

  Raises:
    OSError: it cannot be written; EIO for any error of an object store's client.
  """
  raw = content.encode() if isinstance(content, str) else content
  if not is_local(path):  # an object appears when it is complete, and needs no folder
    try:
      path.write_bytes(raw)
    except Exception as error:
      raise OSError(errno.EIO, first_line(error), os.fspath(path)) from error
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.parent / f'.{path.name}.{os.getpid()}'
  with signals.whole():
    try:
      temporary.write_bytes(raw)
      os.replace(temporary, path)
    except BaseException:
      with contextlib.suppress(OSError):
        temporary.unlink()
      raise


def files_in(folder: epath.Path, ending: str = '') -> list[epath.Path]:
  """The files and folders in `folder` whose names end so, by name; [] where there is no folder.

  Raises:
    UserError: the folder cannot be read, or is none.
  """
  try:
    with translate_errors(folder):
      found = folder.iterdir() if folder.exists() else ()
      return sorted((p for p in found if p.name.endswith(ending)), key=lambda p: p.name)
  except OSError as error:
    raise UserError(
      f'{folder} cannot be read ({error.strerror}): make it a folder that you may read'
    ) from error


@contextlib.contextmanager
def translate_errors(path: epath.PathLike) -> Iterator[None]:
  """Turns what makes a path unusable into a UserError that says what to do.

  These are all errors of an object store's client, and of a disk those that lie in the path.
  """
  try:
    yield
  except (UserError, *_BUGS):
    raise
  except Exception as error:  # of many types
    if is_local(path):
      if isinstance(error, OSError) and error.errno in _UNUSABLE:
        shown = os.fspath(path)
        shown = shown if len(shown) <= 200 else f'{shown[:100]}...{shown[-60:]}'
        raise UserError(f'{shown} cannot be used ({error.strerror}): give another path') from error
      raise
    raise UserError(_store_advice(os.fspath(path), error.__cause__ or error)) from error


def _store_advice(path: str, error: BaseException) -> str:
  bucket = '/'.join(path.split('/')[:3])
  if isinstance(error, ImportError):
    return f"{bucket} needs a package ({first_line(error)}): pip install 'clr-jax[gcs]' for gs://"
  if isinstance(error, FileNotFoundError):
    return f'there is no bucket {bucket}: create it first, or correct the name'
  return (
    f'{bucket} cannot be used ({first_line(error)}): check the network, or log in with `gcloud '
    f'auth application-default login` as an account that may get this bucket and list, read, write '
    f'and delete its objects'
  )


def first_line(error: BaseException) -> str:
  """The first line of an error's message, or the name of its type."""
  return (str(error).splitlines() or [''])[0][:120] or type(error).__name__
