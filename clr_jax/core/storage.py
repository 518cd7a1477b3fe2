"""Files on a disk or in an object store (gs://...): atomic writes, readable errors."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import secrets
from collections.abc import Iterator

from etils import epath

from clr_jax.core import signals
from clr_jax.core.errors import UserError
from clr_jax.core.reachability import refuse_unreachable

_UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)  # errors of the path itself
_BUGS = (TypeError, AttributeError, NameError, KeyError, AssertionError)  # not errors of a store


def is_local(path: epath.PathLike) -> bool:
  """False in an object store ('gs://...')."""
  return '://' not in os.fspath(path)


def check_path(path: epath.PathLike) -> None:
  """Raises a UserError for a path that is neither local nor in a supported object store."""
  text = os.fspath(path)
  scheme, separator, rest = text.partition('://')
  if separator and scheme != 'gs':
    raise UserError(
      f'{text} cannot be used: only local paths and gs:// are supported, so give one of them'
    )
  if text.startswith('~') and os.path.expanduser(text) == text:
    raise UserError(f'{text} begins with a user who does not exist: give another path')
  if not text.strip():
    raise UserError('the path of a folder or file is empty: give one')
  if re.match('(gs|s3|https?):/', text) and not separator:
    raise UserError(f'{text} is no path of a bucket: give gs://BUCKET/FOLDER')
  if separator and not rest.partition('/')[0]:
    raise UserError(f'{text} has no bucket: give gs://BUCKET/FOLDER')
  if '\0' in text:
    raise UserError(f'{text!r} contains a null byte: give another path')


def cache_folder() -> pathlib.Path:
  """The user's cache folder: clr_jax in $XDG_CACHE_HOME or ~/.cache."""
  return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'clr_jax'


def atomic_write(path: epath.Path, content: str | bytes) -> None:
  """Writes a file atomically and creates its folder.

  Text is written as UTF-8; undecodable bytes from file names are written as escapes.

  Raises:
    UserError: a folder has the name of the file, or a file the name of its folder.
    OSError: it cannot be written; EIO for any error of an object store's client.
  """
  raw = content.encode('utf-8', 'backslashreplace') if isinstance(content, str) else content
  if not is_local(path):  # an object appears only when complete, and needs no folder
    try:
      path.write_bytes(raw)
    except Exception as error:
      raise OSError(errno.EIO, first_line(error), os.fspath(path)) from error
    return
  with translate_errors(path), _refuse_other_kinds(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, raw)


@contextlib.contextmanager
def _refuse_other_kinds(path: epath.Path) -> Iterator[None]:
  try:
    yield
  except (IsADirectoryError, FileExistsError) as error:
    kinds = ('folder', 'file') if isinstance(error, IsADirectoryError) else ('file', 'folder')
    place = path if isinstance(error, IsADirectoryError) else path.parent
    raise UserError(
      f'{place} is a {kinds[0]}, but a {kinds[1]} has to be written there: move it away'
    ) from error


def _replace(path: epath.Path, raw: bytes) -> None:
  temporary = path.parent / f'.{path.name}.{os.getpid()}'
  with signals.whole():
    try:
      temporary.write_bytes(raw)
      os.replace(temporary, path)
    except BaseException as error:
      with contextlib.suppress(OSError):
        temporary.unlink()
      if isinstance(error, OSError) and error.filename is None:  # disk full
        error.filename = os.fspath(path)
      raise


def check_writable(folder: epath.Path, name: str = '.probe') -> None:
  """Checks that a file can be written to a folder, which is created; leaves no file behind.

  Args:
    folder: the folder.
    name: name of the file, which may be too long.

  Raises:
    UserError, OSError: see `atomic_write`.
  """
  made = [p for p in (folder, *folder.parents) if not p.exists()] if is_local(folder) else []
  probe = folder / f'{name}-{secrets.token_hex(4)}'
  try:
    atomic_write(probe, 'x')  # an empty file would fit on a full disk
    probe.unlink()
  finally:
    for each in made:
      with contextlib.suppress(OSError):
        each.rmdir()


def is_file(path: epath.PathLike) -> bool:
  """True for a regular file; epath also accepts everything else that is not a folder."""
  return os.path.isfile(path) if is_local(path) else epath.Path(path).is_file()


def read_file(path: epath.PathLike) -> bytes:
  """Reads a file.

  Raises:
    OSError: it cannot be read, or is not a regular file, such as a pipe, which may never end.
  """
  if not is_file(path) and epath.Path(path).exists():
    raise OSError(errno.EINVAL, 'not a regular file', os.fspath(path))
  return epath.Path(path).read_bytes()


def files_in(folder: epath.Path, ending: str = '') -> list[epath.Path]:
  """Sorted files and folders in `folder` with the name ending; [] if the folder does not exist.

  Raises:
    UserError: the folder cannot be read, or is not a folder.
  """
  try:
    with translate_errors(folder):
      found = folder.iterdir() if folder.exists() else ()
      return sorted((p for p in found if p.name.endswith(ending)), key=lambda p: p.name)
  except OSError as error:
    raise UserError(
      f'{folder} cannot be read ({error.strerror}): make it a readable folder'
    ) from error


@contextlib.contextmanager
def translate_errors(path: epath.PathLike) -> Iterator[None]:
  """Context manager that turns errors of an unusable path into a UserError with a remedy.

  It handles all errors of an object store's client, and a disk's errors about the path itself. A
  store that cannot be reached is refused first.
  """
  if not is_local(path):
    refuse_unreachable(os.fspath(path))
  try:
    yield
  except (UserError, *_BUGS):
    raise
  except Exception as error:  # store clients raise many types
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
    f'auth application-default login` as an account that may list, read, write and delete objects '
    f'in it'
  )


def first_line(error: BaseException) -> str:
  """First line of an error's message as plain text, or the name of its type.

  That of a file's error leaves out Python's number of it and the path.
  """
  if isinstance(error, OSError) and error.strerror and error.filename is not None:
    return error.strerror
  text = re.sub(r'\x1b\[[\d;]*m', '', str(error))  # PyTorch's messages have bold words
  return (text.splitlines() or [''])[0][:120] or type(error).__name__
