"""Annotations of options: facts, allowed values, and messages about values that are not allowed.

Types and `Literal[...]` choices, the bounds of the package annotated-types (`Gt`, `Ge`, `Lt`, `Le`,
`MultipleOf`, `MinLen`, `MaxLen`, `Interval`, `Len`), and the facts below:

    temperature: Annotated[float, Gt(0)]
    crop_scale: Annotated[tuple[float, float], INCREASING]

Numeric bounds apply to the numbers in a union, length bounds to its sequences. Numbers must be
finite; NaN is never allowed.
"""

from __future__ import annotations

import math
import numbers
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import annotated_types as at
import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.core.names import hint as nearest
from clr_jax.core.names import listed


class Fact(NamedTuple):
  """A fact about an option without a value; see the constants below."""

  name: str


INFINITY_ALLOWED = Fact('INFINITY_ALLOWED')
"""The number may be infinite."""

INCREASING = Fact('INCREASING')
"""The entries of the sequence do not decrease."""

DISTINCT = Fact('DISTINCT')
"""No two entries of the sequence are equal."""

_OF_SEQUENCES = INCREASING, DISTINCT

SEVERAL = Fact('SEVERAL')
"""A tuple of different values means several settings, each measured separately."""

NO_EFFECT_ON_TRAINING = Fact('NO_EFFECT_ON_TRAINING')
"""The option does not change the trained parameters, so a run can resume with another value."""

OPTIONAL = Fact('OPTIONAL')
"""The option may be missing, and is missing in configs: the factory has its own default."""


class Formerly(NamedTuple):
  """The value that runs were trained with before the option existed, if it is not the default."""

  value: Any


class OneOf(NamedTuple):
  """The value is one of `names`, such as the keys of a table; use `Literal` for few names."""

  names: Collection[str]


# ---------------------------------------------------------------- checks
def check_value(key: str, value: Any, hint: Any) -> None:
  """Raises an error for a value that an annotation does not allow.

  Raises:
    UserError: one sentence with the key, the value and the allowed values.
  """
  if SEVERAL in facts_of(hint) and isinstance(value, tuple | list):
    if not value:
      raise UserError(f'{key} is empty: give {describe(hint)}')
    for each in value:
      check_value(key, each, hint)
    if not _meets(DISTINCT, value):
      raise UserError(f'{key}={_shown(value)} repeats a value: give each of them once')
  elif not _allows(hint, value):
    raise UserError(
      f'{key}={_shown(value)} is not allowed: {_nearest(hint, value)}give {describe(hint)}'
    )


def facts_of(hint: Any) -> tuple[Any, ...]:
  """Bounds and facts in the outermost `Annotated`."""
  return getattr(hint, '__metadata__', ())


def _members(hint: Any) -> list[Any]:
  """Alternatives of a union, with or without `Annotated`; [hint] for other types."""
  if typing.get_origin(hint) is Annotated:
    inner, *facts = typing.get_args(hint)
    return [Annotated[m, *facts] if m is not type(None) else m for m in _members(inner)]
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    return [m for arg in typing.get_args(hint) for m in _members(arg)]
  return [hint]


def _split(hint: Any) -> tuple[Any, list[Any]]:
  """A member of a union without `Annotated`, and the bounds that apply to it."""
  facts: tuple[Any, ...] = ()
  while typing.get_origin(hint) is Annotated:
    facts, hint = (*hint.__metadata__, *facts), hint.__origin__
  return hint, [bound for bound in _bounds(facts) if _applies(bound, hint)]


def _bounds(facts: Sequence[Any]) -> Iterator[Any]:
  for fact in facts:
    if isinstance(fact, at.BaseMetadata | OneOf) or fact in (*_OF_SEQUENCES, INFINITY_ALLOWED):
      yield fact
    elif not isinstance(fact, Fact) and isinstance(fact, at.GroupedMetadata):  # slow: a protocol
      yield from fact


def _applies(bound: Any, kind: Any) -> bool:
  if isinstance(bound, at.MinLen | at.MaxLen):
    return kind is str or _is_sequence(kind)
  if bound in _OF_SEQUENCES:
    return _is_sequence(kind)
  return kind is str if isinstance(bound, OneOf) else kind in (float, int)


def _is_sequence(kind: Any) -> bool:
  return (typing.get_origin(kind) or kind) in (tuple, list, Sequence, Collection)


def _allows(hint: Any, value: Any) -> bool:
  return any(_member_allows(*_split(member), value) for member in _members(hint))


def _member_allows(kind: Any, bounds: Sequence[Any], value: Any) -> bool:
  if not _is_a(kind, value):
    return False
  if isinstance(value, numbers.Real) and kind is not object:  # objects are checked elsewhere
    value = value.item() if isinstance(value, np.generic) else value  # float16 has no 10**9
    infinite = abs(value) == math.inf and INFINITY_ALLOWED not in bounds
    if infinite or value != value:
      return False
  return all(_meets(bound, value) for bound in bounds)


def _is_a(kind: Any, value: Any) -> bool:
  origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
  if kind is Any or isinstance(kind, TypeVar):
    return True
  if origin is Literal:
    return any(type(value) is type(choice) and value == choice for choice in args)
  if kind in (float, int):
    abstract = numbers.Real if kind is float else numbers.Integral
    return isinstance(value, abstract) and not isinstance(value, bool)
  if _is_sequence(kind):
    if not isinstance(value, tuple | list):
      return False
    if origin is tuple and args and args[-1] is not Ellipsis:
      return len(value) == len(args) and all(map(_allows, args, value))
    return all(_allows(args[0], each) for each in value) if args else True
  if origin is Mapping and args and isinstance(value, Mapping):
    return all(_allows(args[0], key) and _allows(args[1], each) for key, each in value.items())
  is_checked = isinstance(origin, type) and not getattr(origin, '_is_protocol', False)
  return isinstance(value, origin) if is_checked else True


def _meets(bound: Any, value: Any) -> bool:
  match bound:
    case at.Gt(limit):
      return value > limit
    case at.Ge(limit):
      return value >= limit
    case at.Lt(limit):
      return value < limit
    case at.Le(limit):
      return value <= limit
    case at.MultipleOf(factor):
      return value % factor == 0
    case at.MinLen(size):
      return len(value) >= size
    case at.MaxLen(size):
      return len(value) <= size
    case OneOf(names):
      return value in names
    case Fact('INCREASING'):
      return list(value) == sorted(value)
    case Fact('DISTINCT'):
      return all(list(value).count(each) == 1 for each in value)
    case Fact('INFINITY_ALLOWED'):
      return True
  raise TypeError(f'no rule for the bound {bound!r}')


# ---------------------------------------------------------------- words
_WORDS = {
  float: 'a number',
  int: 'a whole number',
  bool: 'True or False',
  str: 'a string',
  Mapping: 'a section with keys',
}


def describe(hint: Any) -> str:
  """Describes the allowed values, such as 'a number greater than 0, or None'."""
  words = ', or '.join(dict.fromkeys(_describe_member(*_split(m)) for m in _members(hint)))
  return f'{words}, or several' if SEVERAL in facts_of(hint) else words


def _describe_member(kind: Any, bounds: Sequence[Any]) -> str:
  origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
  choices = [b.names for b in bounds if isinstance(b, OneOf)]
  if kind is type(None):
    return 'None'
  if origin is Literal:
    return ('one of ' if len(args) > 1 else '') + ', '.join(map(repr, args))
  if choices:
    return f'one of {listed(map(repr, choices[0]))}'
  if not _is_sequence(kind):
    words = _WORDS.get(origin, getattr(origin, '__name__', str(kind)))
  elif origin is tuple and args and args[-1] is not Ellipsis:
    words = f'({", ".join(map(describe, args))})'
  else:
    words = ''.join(['a sequence', *(f', each {describe(arg)},' for arg in args[:1])])
  spoken = filter(None, map(_describe_bound, bounds))
  return f'{words} {" and ".join(spoken)}'.strip().removesuffix(',')


def _describe_bound(bound: Any) -> str:
  match bound:
    case at.Gt(limit):
      return f'greater than {limit}'
    case at.Ge(limit):
      return f'of at least {limit}'
    case at.Lt(limit):
      return f'less than {limit}'
    case at.Le(limit):
      return f'of at most {limit}'
    case at.MultipleOf(factor):
      return f'that is a multiple of {factor}'
    case at.MinLen(1):
      return 'that is not empty'
    case at.MinLen(size):
      return f'of at least {size} entries'
    case at.MaxLen(size):
      return f'of at most {size} entries'
    case Fact('INCREASING'):
      return 'in increasing order'
    case Fact('DISTINCT'):
      return 'without repetitions'
  return ''


def _nearest(hint: Any, value: Any) -> str:
  """Returns 'did you mean X? ' for a string, or one in a sequence, that is not a choice."""
  choices = _choices(hint)
  given = value if isinstance(value, tuple | list) else [value]
  wrong = [each for each in given if isinstance(each, str) and each not in choices]
  return nearest(wrong[0], choices) if wrong else ''


def _choices(hint: Any) -> list[str]:
  """All strings that an annotation allows, including those of a sequence's entries."""
  found = []
  for kind, bounds in map(_split, _members(hint)):
    args = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
      found += [choice for choice in args if isinstance(choice, str)]
    elif _is_sequence(kind):
      found += [choice for arg in args if arg is not Ellipsis for choice in _choices(arg)]
    found += [name for bound in bounds if isinstance(bound, OneOf) for name in bound.names]
  return found


def _shown(value: Any) -> str:
  try:
    text = ' '.join(repr(value).split())
  except ValueError:  # Python does not print integers of more than 4300 digits
    text = f'a {type(value).__name__} of thousands of digits'
  return text if len(text) <= 80 else f'{text[:77]}...'


# ---------------------------------------------------------------- flags
def value_type(hint: Any) -> type:
  """Type of a flag for values of `hint`, the widest of a union: `float | None` -> float.

  Sequences are tuples, the only ones that flags can set; str if the type is unknown.
  """
  kinds = set()
  for kind, _ in map(_split, _members(hint)):
    literal = typing.get_origin(kind) is Literal
    kinds |= {type(c) for c in typing.get_args(kind)} if literal else {kind}
  if any(map(_is_sequence, kinds)):
    return tuple
  return next((kind for kind in (str, float, int, bool) if kind in kinds), str)
