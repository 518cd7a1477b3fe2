"""Config files: finds them by path or name, and runs their get_config.

A file may also define `complete(config, given)`, which is called after the values of flags are set;
`given` holds their keys. It may change other keys, such as those that depend on the images, and
returns sentences for the terminal.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.util
import inspect
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict

from clr_jax.core import user_code
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.names import look_up

_PACKAGED = pathlib.Path(__file__).parent.parent / 'configs'  # in the wheel
_CHECKOUT = pathlib.Path(__file__).parent.parent.parent / 'configs'


def resolve(spec: str) -> tuple[pathlib.Path, str | None]:
  """Splits `path.py[:ARG]` into (file, ARG): an existing path, else a packaged config."""
  path, _, argument = spec.partition(':')
  name = pathlib.Path(path).name
  name = name if name.endswith('.py') else f'{name}.py'
  bare = pathlib.PurePath(path).parent.as_posix() in ('.', 'configs')
  try:
    for candidate in (pathlib.Path(path), folder() / name) if bare else (pathlib.Path(path),):
      if candidate.is_file():
        return candidate.resolve(), argument or None
    reason = ', which is a folder' if path and pathlib.Path(path).is_dir() else ''
  except (OSError, ValueError) as error:  # a name that is too long; a null byte
    reason = f' ({getattr(error, "strerror", None) or error})'
  shown = path if len(path) <= 200 else f'{path[:200]}...'
  raise UserError(
    f'no config file {shown!r}{reason}: give a path, or one of {", ".join(packaged())}'
  )


def folder() -> pathlib.Path:
  """Folder of the configs that come with the library, in a wheel or in a checkout."""
  return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def packaged() -> list[str]:
  """Names of the configs that come with the library."""
  return sorted(p.stem for p in folder().glob('*.py'))


def load(spec: str) -> Config:
  """Loads the config of a file without flags, locked; see `open_file`."""
  return open_file(spec).config


class ConfigFile(NamedTuple):
  """The functions of a config file.

  Attributes:
    config: result of its `get_config`, locked.
    complete: its `complete`, which changes a config in place and returns sentences.
  """

  config: Config
  complete: Callable[[Config, Collection[str]], list[str]]


def open_file(spec: str) -> ConfigFile:
  """Runs `get_config([ARG])` of a config file.

  Raises:
    UserError: no such file, a file that is not a config, or any error in it, with file and line.
  """
  path, argument = resolve(spec)
  if path.suffix != '.py':
    raise UserError(f'{path} is not a config: give a Python file (.py)')
  user_code.refuse_in_a_run(str(path))
  with user_code.importable(path.parent), _relative_to(path.parent):
    return _open(spec, path, argument)


_FOLDER: contextvars.ContextVar[str | None] = contextvars.ContextVar('folder', default=None)


@contextlib.contextmanager
def _relative_to(folder: pathlib.Path) -> Iterator[None]:
  token = _FOLDER.set(str(folder))
  try:
    yield
  finally:
    _FOLDER.reset(token)


def load_imports(names: Sequence[str]) -> tuple[str, ...]:
  """Executes modules that register methods and other components.

  Args:
    names: 'my_methods' or 'my_methods.py' in the folder of the config file that is being read, else
      in the current folder; or an importable module.

  Returns:
    Their absolute paths, or names, for `config.imports`.

  Raises:
    UserError: no such module, or any error in it.
  """
  return tuple(user_code.load(names, _FOLDER.get()))


def _open(spec: str, path: pathlib.Path, argument: str | None) -> ConfigFile:
  module = user_code.run(path, lambda: _module(path))
  found = getattr(module, 'get_config', None)
  if not callable(found):
    raise UserError(f'{path} is not a config: define a function get_config() in it')
  parameters = user_code.run(path, lambda: list(inspect.signature(found).parameters.values()))
  if argument is not None and not parameters:
    raise UserError(f'{path.name} takes no argument: leave {":" + argument!r} out')
  needed = [p.name for p in parameters if p.default is p.empty and p.kind not in _VARIADIC]
  if argument is None and needed:
    raise UserError(f'{path.name} needs an argument, its {needed[0]}: give --config={spec}:ARG')
  config = user_code.run(path, found if argument is None else lambda: found(argument))
  if isinstance(config, FrozenConfigDict):
    config = ConfigDict(dict(config.items()))  # flags override it
  if inspect.iscoroutine(config):
    config.close()  # else Python warns about a coroutine that was never awaited
  if not isinstance(config, ConfigDict):
    raise UserError(
      f'get_config() of {path} returns a {type(config).__name__}: return a ConfigDict, made with '
      f'clr_jax.experiment.config_base.get_config()'
    )
  try:
    imports = to_dict(config).get('imports')
  except TypeError as error:  # keys are sorted
    raise UserError(f'the config of {path} has keys that are not strings: remove them') from error
  if imports:
    with config.unlocked(), config.ignore_type():
      config.imports = load_imports(imports)
  finish: Callable[..., Any] | None = getattr(module, 'complete', None)
  if finish is not None and not callable(finish):
    raise UserError(f'complete of {path} is a {type(finish).__name__}: make it a function')

  def complete(config: Config, given: Collection[str]) -> list[str]:
    if finish is None:
      return []
    finished = functools.partial(finish, config, given)
    try:
      with config.unlocked():
        said = user_code.run(path, finished) or []
    except UserError as error:  # caused by the values of flags, not by the file
      raise error.__cause__ if isinstance(error.__cause__, UserError) else error from None
    if not (isinstance(said, list | tuple) and all(isinstance(line, str) for line in said)):
      raise UserError(f'complete() of {path} returns {said!r}: return a list of sentences')
    return list(said)

  return ConfigFile(config.lock(), complete)


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _module(path: pathlib.Path) -> Any:
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None and spec.loader is not None  # always for names that end in .py
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def choose(argument: str | None, choices: dict[str, Any], default: str) -> Any:
  """Returns the entry of `choices` that a config's argument names; a UserError lists the names."""
  try:
    return look_up(choices, argument or default, 'config argument')
  except UserError as error:
    raise user_code.Sentence(str(error)) from None
