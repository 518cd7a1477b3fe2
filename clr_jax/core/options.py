"""Configs: every hyper-parameter's default lives once, in a function's signature.

`component(factory, name, **given)` writes a factory's keyword-only parameters into a ConfigDict, so
that a config records all of them and `--config.method.temperature=0.2` works although the config
file never names it; `build(factory, config, ...)` calls the factory with them. An unknown key is an
error in both directions.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from clr_jax.core.config_tree import to_dict
from clr_jax.core.registry import check_options, keyword_only
from clr_jax.core.types import Config


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
