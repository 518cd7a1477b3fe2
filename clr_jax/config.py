"""Configs: every hyper-parameter's default lives once, in a function's signature.

`component(factory, name, **given)` writes a factory's keyword-only parameters into a ConfigDict, so
that a config records all of them and `--config.method.temperature=0.2` works although the config
file never names it; `build(factory, config, ...)` calls the factory with them. An unknown key is an
error in both directions.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict, config_dict

from clr_jax.types import UserError

_PACKAGED = pathlib.Path(__file__).parent / 'configs'  # in the wheel
_CHECKOUT = pathlib.Path(__file__).parent.parent / 'configs'


def component(factory: Callable, name: str | None = None, **given: Any) -> ConfigDict:
  """The keyword-only parameters of `factory` with their defaults, `given` replacing some.

  A default of None becomes a typed placeholder, so that flags can override it. Parameters without a
  default appear only if given. Raises UserError for a key that `factory` does not take.
  """
  hints = typing.get_type_hints(getattr(factory, 'func', factory))
  parameters = _keyword_parameters(factory)
  _refuse_unknown(given, factory, name or factory.__name__)
  config = ConfigDict({} if name is None else {'name': name})
  for key in [*parameters, *(k for k in given if k not in parameters)]:
    value = given[key] if key in given else parameters[key].default
    if value is inspect.Parameter.empty:
      continue
    config[key] = config_dict.placeholder(_value_type(hints.get(key))) if value is None else value
  return config


def build(factory: Callable, config: ConfigDict, *args: Any, **fixed: Any) -> Any:
  """`factory(*args, **config, **fixed)` without config's 'name'."""
  given = {k: v for k, v in to_dict(config).items() if k != 'name'}
  _refuse_unknown(given, factory, config.get('name', factory.__name__))
  return factory(*args, **given, **fixed)


def to_dict(config: ConfigDict) -> dict[str, Any]:
  """Plain nested dict: references resolved, empty placeholders are None."""
  return config.copy_and_resolve_references().to_dict()


def _keyword_parameters(factory: Callable) -> dict[str, inspect.Parameter]:
  return {
    k: p
    for k, p in inspect.signature(factory).parameters.items()
    if p.kind is inspect.Parameter.KEYWORD_ONLY
  }


def _refuse_unknown(given, factory: Callable, name: str) -> None:
  kinds = {p.kind for p in inspect.signature(factory).parameters.values()}
  if inspect.Parameter.VAR_KEYWORD in kinds:
    return  # it passes them on to a function that checks
  parameters = _keyword_parameters(factory)
  for key in given:
    if key not in parameters:
      close = difflib.get_close_matches(key, parameters, 1)
      hint = f'did you mean {close[0]!r}? ' if close else ''
      raise UserError(f'{name} has no option {key!r}: {hint}it takes {", ".join(parameters)}')


def _value_type(hint: Any) -> type:
  """int for `int | None`, tuple for `tuple[float, float] | None`; str if nothing better is known."""
  options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  for option in options:
    plain = typing.get_origin(option) or option
    if plain is not type(None) and isinstance(plain, type):
      return plain
  return str


# ---------------------------------------------------------------- config files
def resolve(spec: str) -> tuple[pathlib.Path, str | None]:
  """`path.py[:ARG]` -> (file, ARG): a path if it exists, else the packaged config of that name."""
  path, _, argument = spec.partition(':')
  name = pathlib.Path(path).name
  name = name if name.endswith('.py') else f'{name}.py'
  for candidate in (pathlib.Path(path), _PACKAGED / name, _CHECKOUT / name):
    if candidate.is_file():
      return candidate.resolve(), argument or None
  raise UserError(f'no config file {path!r}: give a path, or one of {", ".join(packaged())}')


def packaged() -> list[str]:
  """Names of the configs that come with the library."""
  folder = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
  return sorted(p.stem for p in folder.glob('*.py') if p.stem != 'common')


def load(spec: str) -> ConfigDict:
  """Runs `get_config([ARG])` of a config file, with its folder importable (for `common`)."""
  path, argument = resolve(spec)
  with _importable(path.parent):
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    takes_argument = bool(inspect.signature(module.get_config).parameters)
    if argument is not None and not takes_argument:
      raise UserError(f'{path.name} takes no argument, so drop {":" + argument!r}')
    config = module.get_config(argument) if argument is not None else module.get_config()
  config.lock()
  return config


def choose(argument: str | None, choices: dict[str, Any], default: str) -> Any:
  """The entry of `choices` that a config's argument names; UserError lists the names."""
  name = argument or default
  if name not in choices:
    raise UserError(f'unknown config argument {name!r}: choose one of {", ".join(choices)}')
  return choices[name]


class _importable:
  def __init__(self, folder: pathlib.Path):
    self.folder = str(folder)

  def __enter__(self):
    sys.path.insert(0, self.folder)

  def __exit__(self, *exc):
    sys.path.remove(self.folder)


def check_keys(config: ConfigDict, keys: Iterable[str], prefix: str) -> None:
  """UserError with the nearest names for a dotted key that is no leaf of `config`."""
  known = [key for key, _ in leaves(config)]
  for key in keys:
    if key not in known:
      close = difflib.get_close_matches(key, known, 3, 0.5)
      close = close or [k for k in known if k.rpartition('.')[2] == key.rpartition('.')[2]]
      hint = f'did you mean {" or ".join(close)}?' if close else f'it has {", ".join(known)}'
      raise UserError(f'--{prefix}.{key}: there is no such key; {hint}')


def leaves(config: ConfigDict, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """(dotted key, value) of every leaf."""
  for key in config:
    value = config[key]
    if isinstance(value, ConfigDict):
      yield from leaves(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value
