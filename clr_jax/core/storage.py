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

_UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)  # as a path, whatever the rights
_BUGS = (TypeError, AttributeError, NameError, KeyError, AssertionError)  # never a store's answer


def is_local(path: epath.PathLike) -> bool:
  """False in an object store ('gs://...')."""
  return '://' not in os.fspath(path)


def check_path(path: epath.PathLike) -> None:
  """UserError for a path that is neither on a disk nor in an object store that is supported."""
  text = os.fspath(path)
  scheme, separator, rest = text.partition('://')
  if separator and scheme != 'gs':
    raise UserError(
      f'{text} cannot be used: only local paths and gs:// are supported, so give one of them'
    )
  if separator and not rest.partition('/')[0]:
    raise UserError(f'{text} names no bucket: give gs://BUCKET/FOLDER')
  if '\0' in text:
    raise UserError(f'{text!r} cannot be used: a path has no null byte, give another one')


def cache_folder() -> pathlib.Path:
  """Folder of the user's for what can be made again: $XDG_CACHE_HOME or ~/.cache, /clr_jax."""
  return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'clr_jax'


def atomic_write(path: epath.Path, content: str | bytes) -> None:
  """Writes a file, and makes its folder; readers see it complete or not at all.

  Text is written as UTF-8; bytes of a file's name that are none are written as escapes.

  Raises:
    UserError: a folder has the name of the file, or a file that of its folder.
    OSError: it cannot be written; EIO for any error of an object store's client.
  """
  raw = content.encode('utf-8', 'backslashreplace') if isinstance(content, str) else content
  if not is_local(path):  # an object appears when it is complete, and needs no folder
    try:
      path.write_bytes(raw)
    except Exception as error:
      raise OSError(errno.EIO, first_line(error), os.fspath(path)) from error
    return
  with _refuse_other_kinds(path):
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
      f'{place} is a {kinds[0]} where a {kinds[1]} is to be written: move it away'
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
      if isinstance(error, OSError) and error.filename is None:  # of a full disk
        error.filename = os.fspath(path)
      raise


def check_writable(folder: epath.Path) -> None:
  """Writes a small file into a folder, which is made; nothing stays of the try.

  Raises:
    UserError, OSError: as `atomic_write` does.
  """
  made = [p for p in (folder, *folder.parents) if not p.exists()] if is_local(folder) else []
  probe = folder / f'.probe-{secrets.token_hex(4)}'
  try:
    atomic_write(probe, 'x')  # a full disk takes an empty file
    probe.unlink()
  finally:
    for each in made:
      with contextlib.suppress(OSError):
        each.rmdir()


def is_file(path: epath.PathLike) -> bool:
  """Whether there is a file; epath counts everything that is no folder."""
  return os.path.isfile(path) if is_local(path) else epath.Path(path).is_file()


def read_file(path: epath.PathLike) -> bytes:
  """The content of a file.

  Raises:
    OSError: it cannot be read, or is something else, such as a pipe, of which no end comes.
  """
  if not is_file(path) and epath.Path(path).exists():
    raise OSError(errno.EINVAL, 'it is no file', os.fspath(path))
  return epath.Path(path).read_bytes()


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
  """The first line of an error's message, or the name of its type; plain text."""
  text = re.sub(r'\x1b\[[\d;]*m', '', str(error))  # PyTorch's has bold words
  return (text.splitlines() or [''])[0][:120] or type(error).__name__
