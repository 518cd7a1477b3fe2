"""Code of a user: running it so that a fault is one sentence, and modules that register things.

A module registers methods, augmentations, data sources or protocols by decorators, such as
`@clr_jax.methods.register`. It is a file, or a module that Python can import. Each runs once in a
process; a run records which, with their checksums.
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

_LOADED: dict[str, str] = {}  # file -> SHA-256 of what ran
_CHOSEN: set[str] = set()  # files of --imports, which a run's own record does not overrule


# ---------------------------------------------------------------- files
def resolved(name: str, folder: str | None = None) -> str:
  """The absolute path of a file of the user's; the name itself of a module that Python can import.

  Args:
    name: 'my_methods', 'lab.methods', 'my_methods.py' or a longer path.
    folder: that it is looked for in first; then the current one.

  Raises:
    UserError: there is no such file or module.
  """
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
  """SHA-256 of the file of a module, by its path or name; None if there is none."""
  path = name if name.endswith('.py') else _found(name)
  try:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() if path else None
  except OSError:
    return None


def _found(name: str) -> str | None:
  """The file of a module that Python can import."""
  with contextlib.suppress(ImportError, AttributeError, ValueError):
    spec = importlib.util.find_spec(name)
    return spec.origin if spec else None
  return None


def refuse_in_a_run(path: str) -> None:
  """UserError for a file in the directory of a run: what lies there is data and never runs."""
  for parent in pathlib.Path(os.path.realpath(path)).parents:
    with contextlib.suppress(OSError, ValueError):
      config = parent / 'config.json'
      if config.is_file() and '"config_hash"' in config.read_text():
        raise UserError(
          f'{path} lies in the workdir {parent}, from which no code is run: move it elsewhere'
        )


# ---------------------------------------------------------------- running it
def load(names: Sequence[str], folder: str | None = None, *, chosen: bool = False) -> list[str]:
  """Runs modules that have not run yet; returns them as `resolved` does.

  Args:
    names, folder: see `resolved`.
    chosen: by the user of this command, so that they stand for those of a run of the same name.

  Raises:
    UserError: no such file, one in a workdir, or any error of it, by file and line.
  """
  texts = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
  if not texts or isinstance(names, str):  # of a config that is not checked yet
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
  """{module: SHA-256 of the code of it that ran in this process}, of those that ran."""
  return {name: _LOADED[name] for name in names if name in _LOADED}


def load_recorded(recorded: Mapping[str, str], where: str) -> None:
  """Runs the modules that a run was made with.

  Args:
    recorded: from `checksums`.
    where: the run, for messages.

  Raises:
    UserError: one is missing or not what it was, unless another was `chosen` for it.
  """
  for name, digest in recorded.items():
    last = os.path.basename(name)
    if any(os.path.basename(chosen) == last for chosen in _CHOSEN):
      continue
    now = checksum(name)
    if now is None:
      raise UserError(
        f'{where} was made with {name}, which is not there any more: put it back, or give its new '
        f'place by --imports=FILE'
      )
    if now != digest:
      raise UserError(
        f'{where} was made with {name}, which has changed since: put it back as it was, or give '
        f'the code to be used by --imports=FILE'
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
  # Under its own name, so that it and what lies beside it can be imported by reader processes, too.
  if str(path.parent) not in sys.path:
    sys.path.append(str(path.parent))
  stem = path.stem
  if _found(stem) not in (None, name) or stem in sys.modules:
    stem = f'{stem}_{hashlib.sha256(name.encode()).hexdigest()[:8]}'
  spec = importlib.util.spec_from_file_location(stem, path)
  assert spec is not None and spec.loader is not None  # of every name that ends in .py
  module = importlib.util.module_from_spec(spec)
  sys.modules[stem] = module
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[stem]
    raise


@contextlib.contextmanager
def importable(folder: pathlib.Path) -> Iterator[None]:
  """Files of a folder can be imported inside the context."""
  sys.path.append(str(folder))
  try:
    yield
  finally:
    sys.path.remove(str(folder))


def run(path: pathlib.Path, call: Callable[[], T]) -> T:
  """`call()`, which runs code of the file: any error of it is one sentence with file and line.

  Raises:
    UserError: for any error.
  """
  try:
    return call()
  except Sentence:
    raise
  except (KeyboardInterrupt, GeneratorExit):
    raise
  except BaseException as error:  # SystemExit, too
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    if isinstance(error, SyntaxError):  # nothing ran; an unreadable one has no line
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
  except Exception:  # of the error's own __str__
    return ''


class Sentence(UserError):
  """It says all: the line of the file in which it was raised does not matter."""
