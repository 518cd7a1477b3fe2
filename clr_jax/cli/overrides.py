"""`--config.KEY=VALUE` and `--params.KEY=VALUE`: values of config keys from the command line.

A value has the type of the one that it replaces:

  --config.seed=3  --config.seed 3      a number, or a string
  --config.probe.enabled                True; --noconfig.probe.enabled is False
  --config.profile=18,20  --params.attack=plb_l2,corruptions  --params.scale=(0.5,1)    a tuple
  --config.stop_at_epoch=None           no value, whatever the type

Of several values for one key the last counts.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from clr_jax.core.config_tree import Config, check_keys, leaves
from clr_jax.core.errors import UserError

Given = list[tuple[str, str | bool]]  # (dotted key, text of the value, or True and False without)

_OVERRIDE = re.compile(r'--(?P<no>no)?(?P<name>\w+)\.(?P<key>[^=]+)(=(?P<value>.*))?', re.DOTALL)
_BOOLEANS = {'true': True, '1': True, 'false': False, '0': False}


def split(arguments: Sequence[str], names: Collection[str]) -> tuple[list[str], dict[str, Given]]:
  """Takes the overrides of the configs called `names` out of the arguments of a command.

  Returns:
    The other arguments, and the overrides by the config's name, in their order.
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
  """The values given for `config`, by dotted key.

  Args:
    config: its values determine the types.
    given: from `split`.
    name: the config's name on the command line, such as 'params'.

  Raises:
    UserError: a key that is no leaf of the config (with the nearest ones), or a value that is not
      of the type.
  """
  check_keys(config, [key for key, _ in given], f'--{name}.')
  values = {}
  for key, text in given:
    parent, _, leaf = key.rpartition('.')
    holder = config[parent] if parent else config
    values[key] = _value(holder.get_type(leaf), text, f'--{name}.{key}')
  return values


def apply(config: Config, given: Given, name: str, *, known: Config | None = None) -> Config:
  """`config` itself with the values given for it; raises as `values_of` does.

  Args:
    known: a config with more keys, which determines what may be given; None = `config`.
  """
  values = values_of(config if known is None else known, given, name)
  with config.unlocked(), config.ignore_type():  # a key that it lacks; several values for one
    config.update_from_flattened_dict(values)
  return config


class Keys(NamedTuple):
  """A config whose keys flags can set.

  Attributes:
    config: with the values that are used if no flag sets them.
    texts: descriptions by dotted key.
  """

  config: Config
  texts: Mapping[str, str]


def listing(keys: Keys, name: str, *, columns: int) -> Iterator[str]:
  """Each leaf as it can be given, `--name.KEY=VALUE`, and below it its description.

  Args:
    name: the config's name on the command line.
    columns: longest line of a description.
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
    raise UserError(f'--no{flag[2:]} is not allowed, for {flag} is not a boolean: give it a value')
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
  """'1,2' and '(1, 2)'; words need no quotes: 'pgd_l2,plb_l2'; '' is ()."""
  if not text.startswith(('(', '[', '{', '"', "'")):
    return tuple(_literal(part.strip()) for part in text.split(',') if part.strip())
  try:
    value = ast.literal_eval(text)
  except _UNREADABLE as error:
    raise ValueError from error
  return tuple(value) if isinstance(value, list | tuple) else (value,)


def _literal(text: str) -> Any:
  """A number, True, False or None, or else the text itself."""
  try:
    return ast.literal_eval(text)
  except _UNREADABLE:
    return text


# What Python's parser raises, for a set of lists and for a thousand brackets, too.
_UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
_READERS = {
  bool: (_boolean, 'True or False'),
  int: (int, 'a whole number'),
  float: (float, 'a number'),
  str: (str, 'a string'),
  tuple: (_tuple, 'values with commas between them'),
  list: (_tuple, 'values with commas between them'),
}
