"""Configs: every hyper-parameter's default lives once, in a function's signature.

`component(factory, name, **given)` writes a factory's keyword-only parameters into a ConfigDict, so
that a config records all of them and `--config.method.temperature=0.2` works although the config
file never names it; `build(factory, config, ...)` calls the factory with them. An unknown key is an
error in both directions.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from clr_jax.lookup import check_options, keyword_only, look_up
from clr_jax.types import Config, UserError

_PACKAGED = pathlib.Path(__file__).parent / 'configs'  # in the wheel
_CHECKOUT = pathlib.Path(__file__).parent.parent / 'configs'


def component(factory: Callable, name: str | None = None, **given: Any) -> Config:
  """The keyword-only parameters of `factory` with their defaults, `given` replacing some.

  The values have the type of the annotation, so that flags can override them: None is a typed
  placeholder, a whole number for a float becomes one, and a single value where several are allowed
  a tuple. Parameters without a default appear only if given. Raises UserError for a key that
  `factory` does not take.
  """
  hints = typing.get_type_hints(getattr(factory, 'func', factory))
  parameters = keyword_only(factory)
  check_options(name or _name_of(factory), factory, given, complete=False)
  config = ConfigDict({} if name is None else {'name': name})
  for key in [*parameters, *(k for k in given if k not in parameters)]:
    value = given[key] if key in given else parameters[key].default
    if value is inspect.Parameter.empty:
      continue
    config[key] = _of_type(_value_type(hints.get(key)), value)
  return config


def build(factory: Callable, config: ConfigDict, *args: Any, **fixed: Any) -> Any:
  """`factory(*args, **config, **fixed)` without config's 'name'."""
  given = {k: v for k, v in to_dict(config).items() if k != 'name'}
  check_options(str(config.get('name') or _name_of(factory)), factory, given, given=fixed)
  return factory(*args, **given, **fixed)


def to_dict(config: ConfigDict) -> dict[str, Any]:
  """Plain nested dict: references resolved, empty placeholders are None."""
  return config.copy_and_resolve_references().to_dict()


def _name_of(factory: Callable) -> str:
  return getattr(factory, 'func', factory).__name__  # a partial has no name of its own


def _of_type(kind: type, value: Any) -> Any:
  if value is None:
    return config_dict.placeholder(kind)
  if kind is float and type(value) is int:
    return float(value)
  if kind is tuple and not isinstance(value, Sequence):
    return (value,)
  return value


def _value_type(hint: Any) -> type:
  """The type of a flag for values of `hint`, the widest if it is a union: `float | None` -> float.

  Sequences are tuples, the only ones that flags can set; str if nothing better is known.
  """
  union = typing.get_origin(hint) in (types.UnionType, typing.Union)
  options = {typing.get_origin(o) or o for o in (typing.get_args(hint) if union else (hint,))}
  if options & {tuple, list, Sequence}:
    return tuple
  return next((kind for kind in (str, float, int, bool) if kind in options), str)


# ---------------------------------------------------------------- config files
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
  return sorted(p.stem for p in folder.glob('*.py') if p.stem != 'common')


def load(spec: str) -> Config:
  """Runs `get_config([ARG])` of a config file, with its folder importable (for `common`)."""
  path, argument = resolve(spec)
  with _importable(path.parent):
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, 'get_config'):
      raise UserError(f'{path} is no config: it must define get_config()')
    takes_argument = bool(inspect.signature(module.get_config).parameters)
    if argument is not None and not takes_argument:
      raise UserError(f'{path.name} takes no argument, so drop {":" + argument!r}')
    config = module.get_config(argument) if argument is not None else module.get_config()
  config.lock()
  return config


def choose(argument: str | None, choices: dict[str, Any], default: str) -> Any:
  """The entry of `choices` that a config's argument names; UserError lists the names."""
  return look_up(choices, argument or default, 'config argument')


@contextlib.contextmanager
def _importable(folder: pathlib.Path) -> Iterator[None]:
  """Modules of `folder` come first and leave no trace: another folder may have its own `common`."""
  siblings = {p.stem for p in folder.glob('*.py')} - sys.stdlib_module_names
  hidden = {name: sys.modules.pop(name) for name in siblings & sys.modules.keys()}
  sys.path.insert(0, str(folder))
  try:
    yield
  finally:
    sys.path.remove(str(folder))
    for name in siblings:
      sys.modules.pop(name, None)
    sys.modules.update(hidden)


def value_at(config: ConfigDict, key: str) -> Any:
  """The value of a dotted key, such as 'eval.data'."""
  value: Any = config
  for part in key.split('.'):
    value = value[part]
  return value


def changed(config: ConfigDict, values: Mapping[str, Any]) -> Config:
  """A copy of `config` with other values of some dotted keys; UserError for an unknown key."""
  check_keys(config, values)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict(dict(values))
  return config


def check_keys(config: ConfigDict, keys: Iterable[str], before: str = '--config.') -> None:
  """UserError with the nearest names for a dotted key that is no leaf of `config`.

  The sentence starts with `before` and the key.
  """
  known = [key for key, _ in leaves(config)]
  for key in keys:
    if key not in known:
      close = difflib.get_close_matches(key, known, 3, 0.5)
      close = close or [k for k in known if k.rpartition('.')[2] == key.rpartition('.')[2]]
      hint = f'did you mean {" or ".join(close)}?' if close else f'it has {", ".join(known)}'
      raise UserError(f'{before}{key}: there is no such key; {hint}')


def leaves(config: ConfigDict, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """(dotted key, value) of every leaf."""
  for key in config:
    value = config[key]
    if isinstance(value, ConfigDict):
      yield from leaves(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value
