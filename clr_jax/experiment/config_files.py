"""Config files: finding one by path or name, and running its get_config.

A file may also define `complete(config, given)`, which is called once the values of flags are in
the config, of which `given` names the keys. It may change others, such as those that follow from
the images, and returns sentences for the terminal.
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
  """`path.py[:ARG]` -> (file, ARG): a path if it exists, else the packaged config of that name."""
  path, _, argument = spec.partition(':')
  name = pathlib.Path(path).name
  name = name if name.endswith('.py') else f'{name}.py'
  folder = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
  bare = pathlib.PurePath(path).parent.as_posix() in ('.', 'configs')
  try:
    for candidate in (pathlib.Path(path), folder / name) if bare else (pathlib.Path(path),):
      if candidate.is_file():
        return candidate.resolve(), argument or None
    reason = ', which is a folder' if path and pathlib.Path(path).is_dir() else ''
  except (OSError, ValueError) as error:  # too long a name; a null byte
    reason = f' ({getattr(error, "strerror", None) or error})'
  shown = path if len(path) <= 200 else f'{path[:200]}...'
  raise UserError(
    f'no config file {shown!r}{reason}: give a path, or one of {", ".join(packaged())}'
  )


def packaged() -> list[str]:
  """Names of the configs that come with the library."""
  folder = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
  return sorted(p.stem for p in folder.glob('*.py'))


def load(spec: str) -> Config:
  """The config of a file as it is without flags, locked; see `open_file`."""
  return open_file(spec).config


class ConfigFile(NamedTuple):
  """What a config file defines.

  Attributes:
    config: from its `get_config`, locked.
    complete: its `complete`, which changes a config in place and returns sentences.
  """

  config: Config
  complete: Callable[[Config, Collection[str]], list[str]]


def open_file(spec: str) -> ConfigFile:
  """Runs `get_config([ARG])` of a config file.

  Raises:
    UserError: no such file, one that is no config, or whatever goes wrong in it, by file and line.
  """
  path, argument = resolve(spec)
  if path.suffix != '.py':
    raise UserError(f'{path} is no config: give a Python file (.py)')
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
  """Runs modules that register methods and so on, named in a config file or beside one.

  Args:
    names: 'my_methods' or 'my_methods.py', in the folder of the config file that is being read,
      else in the current one; or a module that Python can import.

  Returns:
    Their absolute paths, or names, for `config.imports`.

  Raises:
    UserError: no such module, or any error of it.
  """
  return tuple(user_code.load(names, _FOLDER.get()))


def _open(spec: str, path: pathlib.Path, argument: str | None) -> ConfigFile:
  module = user_code.run(path, lambda: _module(path))
  found = getattr(module, 'get_config', None)
  if not callable(found):
    raise UserError(f'{path} is no config: it must define get_config(), a function')
  parameters = user_code.run(path, lambda: list(inspect.signature(found).parameters.values()))
  if argument is not None and not parameters:
    raise UserError(f'{path.name} takes no argument, so drop {":" + argument!r}')
  needed = [p.name for p in parameters if p.default is p.empty and p.kind not in _VARIADIC]
  if argument is None and needed:
    raise UserError(f'{path.name} needs an argument, its {needed[0]}: give --config={spec}:ARG')
  config = user_code.run(path, found if argument is None else lambda: found(argument))
  if isinstance(config, FrozenConfigDict):
    config = ConfigDict(dict(config.items()))  # flags override it
  if inspect.iscoroutine(config):
    config.close()  # else Python warns that nobody waited for it
  if not isinstance(config, ConfigDict):
    raise UserError(
      f'get_config() of {path} gives a {type(config).__name__}: return a ConfigDict, made with '
      f'clr_jax.experiment.config_base.get_config()'
    )
  if imports := to_dict(config).get('imports'):
    with config.unlocked(), config.ignore_type():
      config.imports = load_imports(imports)
  finish: Callable[..., Any] | None = getattr(module, 'complete', None)

  def complete(config: Config, given: Collection[str]) -> list[str]:
    if finish is None:
      return []
    finished = functools.partial(finish, config, given)
    try:
      with config.unlocked():
        return user_code.run(path, finished) or []
    except UserError as error:  # of the values of flags, not of the file
      raise error.__cause__ if isinstance(error.__cause__, UserError) else error from None

  return ConfigFile(config.lock(), complete)


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _module(path: pathlib.Path) -> Any:
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None and spec.loader is not None  # of every name that ends in .py
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def choose(argument: str | None, choices: dict[str, Any], default: str) -> Any:
  """The entry of `choices` that a config's argument names; UserError lists the names."""
  try:
    return look_up(choices, argument or default, 'config argument')
  except UserError as error:
    raise user_code.Sentence(str(error)) from None
