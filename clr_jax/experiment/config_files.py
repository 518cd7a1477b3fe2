"""Config files: finding one by path or name, and running its get_config."""

from __future__ import annotations

import inspect
import pathlib
import runpy
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
  module = runpy.run_path(str(path))
  if 'get_config' not in module:
    raise UserError(f'{path} is no config: it must define get_config()')
  if argument is not None and not inspect.signature(module['get_config']).parameters:
    raise UserError(f'{path.name} takes no argument, so drop {":" + argument!r}')
  return module['get_config'](*() if argument is None else (argument,)).lock()


def choose(argument: str | None, choices: dict[str, Any], default: str) -> Any:
  """The entry of `choices` that a config's argument names; UserError lists the names."""
  return look_up(choices, argument or default, 'config argument')
