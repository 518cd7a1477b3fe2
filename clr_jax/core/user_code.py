"""User code: modules that register components, with errors reported as one sentence.

A module registers methods, augmentations, data sources or protocols by decorators, such as
`@clr_jax.methods.register`. It is a file or an importable module. Each is executed once per
process; a run records their names and checksums.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from clr_jax.core.errors import UserError

T = TypeVar('T')

_LOADED: dict[str, str] = {}  # file -> SHA-256 of the executed code
_CHOSEN: set[str] = set()  # files of --imports, which take precedence over a run's record
_REPLACED: dict[str, str] = {}  # module that a run used -> the chosen one instead


# ---------------------------------------------------------------- files
def resolved(name: str, folder: str | None = None) -> str:
  """Resolves a file to its absolute path; returns the name of an importable module unchanged.

  Args:
    name: 'my_methods', 'lab.methods', 'my_methods.py' or a longer path.
    folder: folder to search first, before the current one.

  Raises:
    UserError: there is no such file or module.
  """
  if name in _REPLACED:
    return _REPLACED[name]
  relative = name if name.endswith('.py') else f'{name.replace(".", "/")}.py'
  relative = os.path.expanduser(relative)
  tried = [os.path.abspath(os.path.join(place, relative)) for place in (folder or '.', '.')]
  for path in tried:
    if os.path.isfile(path):
      return path
  if not name.endswith('.py') and _found(name):
    return name
  raise UserError(
    f'imports={name}: there is no file {tried[0]}'
    f'{"" if name.endswith(".py") else " and no module of that name"}: correct the path'
  )


def checksum(name: str) -> str | None:
  """SHA-256 of the file of a module, given by path or name; None if there is no file."""
  path = name if name.endswith('.py') else _found(name)
  try:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() if path else None
  except OSError:
    return None


def _found(name: str) -> str | None:
  """File of an importable module."""
  with contextlib.suppress(ImportError, AttributeError, ValueError):
    spec = importlib.util.find_spec(name)
    return spec.origin if spec else None
  return None


def refuse_in_a_run(path: str) -> None:
  """Raises a UserError for a file in the directory of a run, from which no code is executed."""
  for parent in pathlib.Path(os.path.realpath(path)).parents:
    with contextlib.suppress(OSError, ValueError):
      config = parent / 'config.json'
      if config.is_file() and '"config_hash"' in config.read_text():
        raise UserError(
          f'{path} is in the workdir {parent}, from which no code is run: move it elsewhere'
        )


# ---------------------------------------------------------------- running it
def load(names: Sequence[str], folder: str | None = None, *, chosen: bool = False) -> list[str]:
  """Executes modules that have not been executed yet; returns them as `resolved` does.

  Args:
    names, folder: see `resolved`.
    chosen: True if the user named them for this command, so that they replace modules recorded by
      a run that have the same name or the same code.

  Raises:
    UserError: no such file, a file in a workdir, or any error in it, with file and line.
  """
  texts = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
  if not texts or isinstance(names, str):  # the config may not be checked yet
    raise UserError(f'imports={names!r} is not allowed: give a sequence, each a string')
  found = [resolved(name, folder) for name in names]
  for name in found:
    if chosen:
      _CHOSEN.add(name)
    if name in _LOADED:
      continue
    if name.endswith('.py'):
      refuse_in_a_run(name)
    digest = checksum(name) or ''
    path = pathlib.Path(name if name.endswith('.py') else _found(name) or name)
    run(path, lambda name=name: _import(name))
    _LOADED[name] = digest
  return found


def checksums(names: Iterable[str]) -> dict[str, str]:
  """{module: SHA-256 of its code} of the modules executed in this process."""
  return {name: _LOADED[name] for name in names if name in _LOADED}


def load_recorded(recorded: Mapping[str, str], where: str) -> None:
  """Executes the modules that a run used.

  Args:
    recorded: from `checksums`.
    where: name of the run, for messages.

  Raises:
    UserError: one is missing or has changed, unless a replacement was `chosen`.
  """
  for name, digest in recorded.items():
    last = os.path.basename(name)
    chosen = [c for c in _CHOSEN if os.path.basename(c) == last or _LOADED.get(c) == digest]
    if chosen:
      _REPLACED[name] = chosen[0]
      continue
    now = checksum(name)
    if now is None:
      raise UserError(
        f'{where} used {name}, which is missing: restore it, or give its new location by '
        f'--imports=FILE'
      )
    if now != digest:
      raise UserError(
        f'{where} used {name}, which has changed since: restore it, or give the code to use by '
        f'--imports=FILE'
      )
    load([name])


def _import(name: str) -> None:
  if not name.endswith('.py'):
    importlib.import_module(name)
    return
  path = pathlib.Path(name)
  for module in list(sys.modules.values()):
    if getattr(module, '__file__', None) == name:
      return  # a config file has imported it
  # Imported under its own name, so that reader processes can import it and its neighbors.
  if str(path.parent) not in sys.path:
    sys.path.append(str(path.parent))
  stem = path.stem
  if _found(stem) not in (None, name) or stem in sys.modules:
    stem = f'{stem}_{hashlib.sha256(name.encode()).hexdigest()[:8]}'
  spec = importlib.util.spec_from_file_location(stem, path)
  assert spec is not None and spec.loader is not None  # always for names that end in .py
  module = importlib.util.module_from_spec(spec)
  sys.modules[stem] = module
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[stem]
    raise


@contextlib.contextmanager
def importable(folder: pathlib.Path) -> Iterator[None]:
  """Context manager that makes the files of a folder importable."""
  sys.path.append(str(folder))
  try:
    yield
  finally:
    sys.path.remove(str(folder))


def run(path: pathlib.Path, call: Callable[[], T]) -> T:
  """Returns `call()`, which executes code of the file; errors become one sentence with the line.

  Raises:
    UserError: any error.
  """
  try:
    return call()
  except Sentence:
    raise
  except (KeyboardInterrupt, GeneratorExit):
    raise
  except BaseException as error:  # includes SystemExit
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    if isinstance(error, SyntaxError):  # nothing was executed; an unreadable file has no line
      lines = [error.lineno] if error.filename == str(path) else lines
    place = f'{path}:{lines[-1]}' if lines and lines[-1] else str(path)
    words = ' '.join((error.msg if isinstance(error, SyntaxError) else _text(error)).split())
    if isinstance(error, UserError):
      raise UserError(f'{place}: {words}') from error
    if isinstance(error, OSError) and not lines:
      raise UserError(f'{path} cannot be read ({error.strerror}): give a readable file') from error
    raise UserError(
      f'{place}: {type(error).__name__}: {words[:500] or "no message"}: correct the file'
    ) from error


def _text(error: BaseException) -> str:
  try:
    return str(error)
  except Exception:  # raised by the error's own __str__
    return ''


class Sentence(UserError):
  """A UserError that is complete without the line of the file that raised it."""
