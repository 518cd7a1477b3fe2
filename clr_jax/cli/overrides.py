"""Values of config keys from the command line: `--config.KEY=VALUE` and `--params.KEY=VALUE`.

A value has the type of the one that it replaces:

  --config.seed=3  --config.seed 3      a number, or a string
  --config.probe.enabled                True; --noconfig.probe.enabled is False
  --config.profile=18,20  --params.attack=plb_l2,corruptions  --params.scale=(0.5,1)    a tuple
  --config.stop_at_epoch=None           no value, for any type

If a key is given several times, the last value counts.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from clr_jax.core.config_tree import Config, check_keys, leaves
from clr_jax.core.errors import UserError

Given = list[tuple[str, str | bool]]  # (dotted key, text of the value, or a bool without a value)

_OVERRIDE = re.compile(r'--(?P<no>no)?(?P<name>\w+)\.(?P<key>[^=]+)(=(?P<value>.*))?', re.DOTALL)
_BOOLEANS = {'true': True, '1': True, 'false': False, '0': False}


def split(arguments: Sequence[str], names: Collection[str]) -> tuple[list[str], dict[str, Given]]:
  """Separates the overrides of the configs called `names` from the arguments of a command.

  Returns:
    The other arguments, and the overrides by the config's name, in order.
  """
  rest: list[str] = []
  given: dict[str, Given] = {name: [] for name in names}
  remaining = list(arguments)
  while remaining:
    argument = remaining.pop(0)
    match = _OVERRIDE.fullmatch(argument)
    meaningless = match is not None and match['no'] and match['value'] is not None
    if match is None or match['name'] not in given or meaningless:  # --noconfig.KEY=VALUE
      rest.append(argument)
      continue
    value: str | bool | None = match['value']
    if match['no'] and value is None:
      value = False
    elif value is None:
      apart = bool(remaining) and not remaining[0].startswith('--')
      value = remaining.pop(0) if apart else True
    given[match['name']].append((match['key'], value))
  return rest, given


def values_of(config: Config, given: Given, name: str) -> dict[str, Any]:
  """Parses the values given for `config`, by dotted key.

  Args:
    config: config whose values determine the types.
    given: result of `split`.
    name: name of the config on the command line, such as 'params'.

  Raises:
    UserError: a key that is not a leaf of the config, or a value of another type.
  """
  check_keys(config, [key for key, _ in given], f'--{name}.')
  values = {}
  for key, text in given:
    parent, _, leaf = key.rpartition('.')
    holder = config[parent] if parent else config
    values[key] = _value(holder.get_type(leaf), text, f'--{name}.{key}')
  return values


def apply(config: Config, given: Given, name: str, *, known: Config | None = None) -> Config:
  """Sets given values in `config` and returns it; raises errors as `values_of` does.

  Args:
    known: a config with additional keys that may be set; None = `config`.
  """
  values = values_of(config if known is None else known, given, name)
  with config.unlocked(), config.ignore_type():  # missing keys; several values instead of one
    config.update_from_flattened_dict(values)
  return config


class Keys(NamedTuple):
  """A config whose keys flags can set.

  Attributes:
    config: config with the values to use if no flag sets them.
    texts: descriptions by dotted key.
  """

  config: Config
  texts: Mapping[str, str]


def listing(keys: Keys, name: str, *, columns: int) -> Iterator[str]:
  """Yields each leaf as a flag, `--name.KEY=VALUE`, followed by its description.

  Args:
    name: name of the config on the command line.
    columns: width of the descriptions.
  """
  indent = ' ' * 8
  for key, value in leaves(keys.config):
    plain = isinstance(value, tuple) and value and not any(',' in str(v) for v in value)
    text = ','.join(map(str, value)) if plain else value
    yield f'  --{name}.{key}={text}'
    yield from textwrap.wrap(
      keys.texts.get(key, ''),
      columns,
      initial_indent=indent,
      subsequent_indent=indent,
      break_on_hyphens=False,
    )


def _value(kind: type, text: str | bool, flag: str) -> Any:
  if isinstance(text, bool):
    if kind is bool:
      return text
    if text:
      raise UserError(f'{flag} needs a value: write {flag}=VALUE')
    raise UserError(f'--no{flag[2:]} is not allowed: {flag} is not a boolean, give it a value')
  if text == 'None':
    return None
  read, expected = _READERS.get(kind, (_literal, 'a value'))
  try:
    return read(text)
  except ValueError:
    shown = text if len(text) <= 80 else f'{text[:77]}...'
    raise UserError(f'{flag}={shown} cannot be read: give {expected}') from None


def _boolean(text: str) -> bool:
  if text.lower() not in _BOOLEANS:
    raise ValueError
  return _BOOLEANS[text.lower()]


def _tuple(text: str) -> tuple[Any, ...]:
  """Parses '1,2' and '(1, 2)'; words need no quotes: 'pgd_l2,plb_l2'; '' is ()."""
  if not text.startswith(('(', '[', '{', '"', "'")):
    return tuple(_literal(part.strip()) for part in text.split(',') if part.strip())
  try:
    value = ast.literal_eval(text)
  except _UNREADABLE as error:
    raise ValueError from error
  return tuple(value) if isinstance(value, list | tuple) else (value,)


def _literal(text: str) -> Any:
  """Parses a number, True, False or None; returns other text unchanged."""
  try:
    return ast.literal_eval(text)
  except _UNREADABLE:
    return text


# Errors of Python's parser, including those for a set of lists and for a thousand brackets.
_UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
_READERS = {
  bool: (_boolean, 'True or False'),
  int: (int, 'a whole number'),
  float: (float, 'a number'),
  str: (str, 'a string'),
  tuple: (_tuple, 'values separated by commas'),
  list: (_tuple, 'values separated by commas'),
}
