"""Config dicts as trees of dotted keys."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from clr_jax.core.errors import UserError
from clr_jax.core.names import RENAMED

Config = Any  # an ml_collections.ConfigDict: its attributes have no static types


def to_dict(config: ConfigDict) -> dict[str, Any]:
  """Converts to a plain nested dict: resolves references; empty placeholders become None."""
  return config.copy_and_resolve_references().to_dict()


def value_at(config: ConfigDict, key: str) -> Any:
  """Value of a dotted key, such as 'eval.data'."""
  value: Any = config
  for part in key.split('.'):
    value = value[part]
  return value


def changed(
  config: ConfigDict, values: Mapping[str, Any], *, known: ConfigDict | None = None
) -> Config:
  """Copies `config` with other values of some dotted keys; UserError for an unknown key.

  Args:
    known: a config with additional keys that may be set, and the types of all keys (whole numbers
      are converted to float); None = `config`.
  """
  check_keys(config if known is None else known, values)
  config = config.copy_and_resolve_references()
  any_type = contextlib.nullcontext()
  if known is not None:
    any_type = config.ignore_type()
    values = {k: float(v) if _is_whole_float(known, k, v) else v for k, v in values.items()}
  with config.unlocked(), any_type:
    config.update_from_flattened_dict(dict(values))
  return config


def _is_whole_float(config: ConfigDict, key: str, value: Any) -> bool:
  holder, _, leaf = key.rpartition('.')
  kind = (value_at(config, holder) if holder else config).get_type(leaf)
  return type(value) is int and kind is float


def check_keys(config: ConfigDict, keys: Iterable[str], before: str = '--config.') -> None:
  """Raises a UserError with the nearest names for a dotted key that is not a leaf of `config`.

  The sentence starts with `before` and the key.
  """
  known = [key for key, _ in leaves(config)]
  for key in keys:
    if key not in known:
      start, _, last = key.rpartition('.')
      renamed = '.'.join(filter(None, (start, RENAMED.get(last))))
      if last in RENAMED and renamed in known:
        raise UserError(f'{before}{key} is now called {before}{renamed}: use that name')
      close = difflib.get_close_matches(key, known, 3, 0.5)
      close = close or [k for k in known if k.rpartition('.')[2] == last]
      others = f'there are {", ".join(known)}' if known else 'there are none, so leave it out'
      hint = f'did you mean {" or ".join(close)}?' if close else others
      raise UserError(f'{before}{key}: there is no such key; {hint}')


def leaves(config: ConfigDict, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Yields (dotted key, value) of every leaf."""
  for key in config:
    value = config[key]
    if isinstance(value, ConfigDict):
      yield from leaves(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value
