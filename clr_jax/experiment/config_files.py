"""Config files: finding one by path or name, and running its get_config."""

from __future__ import annotations

import importlib.util
import inspect
import pathlib
from typing import Any

from clr_jax.core.config_tree import Config
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
  for candidate in (pathlib.Path(path), folder / name) if bare else (pathlib.Path(path),):
    if candidate.is_file():
      return candidate.resolve(), argument or None
  raise UserError(f'no config file {path!r}: give a path, or one of {", ".join(packaged())}')


def packaged() -> list[str]:
  """Names of the configs that come with the library."""
  folder = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
  return sorted(p.stem for p in folder.glob('*.py'))


def load(spec: str) -> Config:
  """Runs `get_config([ARG])` of a config file; the config is locked."""
  path, argument = resolve(spec)
  module_spec = importlib.util.spec_from_file_location(path.stem, path)
  if module_spec is None or module_spec.loader is None:
    raise UserError(f'{path} is no config: give a Python file (.py)')
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise UserError(f'{path} is no config: it must define get_config()')
  if argument is None:
    return module.get_config().lock()
  if not inspect.signature(module.get_config).parameters:
    raise UserError(f'{path.name} takes no argument, so drop {":" + argument!r}')
  return module.get_config(argument).lock()


def choose(argument: str | None, choices: dict[str, Any], default: str) -> Any:
  """The entry of `choices` that a config's argument names; UserError lists the names."""
  return look_up(choices, argument or default, 'config argument')
