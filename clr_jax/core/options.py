"""Options: default, type, choices and bounds of a hyper-parameter live once, in a signature.

The parts of a run (methods, models, policies, optimizers, protocols, ...) are made by functions,
and the keyword-only parameters of such a function are its options:

    def simclr(backbone, info, *, temperature: Annotated[float, Gt(0)] = 0.5,
               block_size: Annotated[int | None, Ge(1), NO_EFFECT_ON_TRAINING] = None): ...

`component(simclr, 'simclr')` writes them into a config, so that a run records all of them and each
is a flag; `check` refuses what the annotations do not allow; `build` checks and calls. The words of
an annotation are `Literal[...]` for choices, those of the package annotated-types for bounds (`Gt`,
`Ge`, `Lt`, `Le`, `MultipleOf`, `MinLen`, `MaxLen`), and the facts below. NaN is never allowed.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import annotated_types as at
from ml_collections import ConfigDict, config_dict

from clr_jax.core.config_tree import to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.names import hint, listed

Factory = TypeVar('Factory', bound=Callable)


# ---------------------------------------------------------------- facts about an option
class Fact(NamedTuple):
  """A fact about an option that needs no value; see the constants below."""

  name: str


INFINITY_ALLOWED = Fact('INFINITY_ALLOWED')
"""The number may be infinite."""

NO_EFFECT_ON_TRAINING = Fact('NO_EFFECT_ON_TRAINING')
"""The trained parameters do not depend on it, so that a run can be resumed with another value."""

SEVERAL = Fact('SEVERAL')
"""A tuple of values is several settings, each measured on its own."""


@dataclasses.dataclass(frozen=True)
class OnlyWith:
  """The option has an effect only if another one is set: `OnlyWith('angular', 'subtractive')`.

  Attributes:
    options: one of these has another value than its default.
    values: or one of these has one of these values, such as {'schedule': ('step',)}.
  """

  options: tuple[str, ...]
  values: Mapping[str, tuple[Any, ...]]

  def __init__(self, *options: str, **values: Any):
    object.__setattr__(self, 'options', options)
    several = {k: v if isinstance(v, tuple) else (v,) for k, v in values.items()}
    object.__setattr__(self, 'values', several)

  def __hash__(self) -> int:
    return hash((self.options, tuple(self.values.items())))

  def holds(self, options: Mapping[str, Option], values: Mapping[str, Any]) -> bool:
    """Whether one of the conditions is met by `values`, in which a missing one is the default."""
    value_of = {k: values.get(k, option.default) for k, option in options.items()}
    return any(value_of[k] != options[k].default for k in self.options) or any(
      value_of[k] in allowed for k, allowed in self.values.items()
    )

  def __str__(self) -> str:
    choices = [f'{k}={" or ".join(map(str, v))}' for k, v in self.values.items()]
    return ' or '.join([f'{k} is set' for k in self.options] + choices)


class Option(NamedTuple):
  """One keyword-only parameter of a factory.

  Attributes:
    default: `inspect.Parameter.empty` without one.
    hint: its annotation, evaluated, with what is inside `Annotated`.
  """

  default: Any
  hint: Any

  @property
  def facts(self) -> tuple[Any, ...]:
    """What stands beside the type in the outermost `Annotated`."""
    return getattr(self.hint, '__metadata__', ())


def keyword_only(factory: Callable) -> dict[str, inspect.Parameter]:
  """The keyword-only parameters of a factory by name."""
  parameters = inspect.signature(factory).parameters
  return {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def options_of(factory: Callable) -> dict[str, Option]:
  """The options of a factory by name."""
  hints = typing.get_type_hints(getattr(factory, 'func', factory), include_extras=True)
  return {k: Option(p.default, hints.get(k, Any)) for k, p in keyword_only(factory).items()}


def takes_options_of(inner: Callable) -> Callable[[Factory], Factory]:
  """Decorates a factory that hands its `**options` on to `inner`: these are its options then.

  They keep the default and the annotation that `inner` gives them, and stand behind the factory's
  own, which hide those of the same name.
  """

  def decorate(factory: Factory) -> Factory:
    signature = inspect.signature(factory)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    taken = {k: p for k, p in keyword_only(inner).items() if k not in signature.parameters}
    hints = typing.get_type_hints(inner, include_extras=True)
    factory.__signature__ = signature.replace(parameters=[*own, *taken.values()])
    factory.__annotations__ = {
      **factory.__annotations__,
      **{k: hint for k, hint in hints.items() if k in taken},
    }
    return factory

  return decorate


# ---------------------------------------------------------------- configs
def component(factory: Callable, name: str | None = None, **given: Any) -> Any:
  """The options of `factory` as a ConfigDict of their defaults, `given` replacing some.

  The values have the type of the annotation, so that flags can override them: None is a typed
  placeholder, a whole number for a float becomes one, and a single value where several are allowed
  a tuple. Options without a default appear only if given.

  Raises:
    UserError: a key that `factory` does not take, or a value that it does not allow.
  """
  check(factory, given, what=name or _name_of(factory), complete=False)
  config = ConfigDict({} if name is None else {'name': name})
  options = options_of(factory)
  handed_on = {key: Option(value, type(value)) for key, value in given.items()}
  for key, option in {**options, **handed_on, **options}.items():
    value = given.get(key, option.default)
    if value is not inspect.Parameter.empty:
      config[key] = _of_type(tuple if SEVERAL in option.facts else value_type(option.hint), value)
  return config


def build(factory: Callable, config: ConfigDict, *args: Any, prefix: str = '', **fixed: Any) -> Any:
  """`factory(*args, **config, **fixed)` without config's 'name', after `check`."""
  given = {k: v for k, v in to_dict(config).items() if k != 'name'}
  what = str(config.get('name') or _name_of(factory))
  check(factory, given, what=what, prefix=prefix, given=fixed)
  return factory(*args, **given, **fixed)


def _name_of(factory: Callable) -> str:
  return getattr(factory, 'func', factory).__name__  # a partial has no name of its own


def _of_type(kind: type, value: Any) -> Any:
  if value is None:
    return config_dict.placeholder(kind)
  if kind is float and type(value) is int:
    return float(value)
  if kind is tuple and (isinstance(value, str) or not isinstance(value, Sequence)):
    return (value,)
  return value


def value_type(hint: Any) -> type:
  """The type of a flag for values of `hint`, the widest if it is a union: `float | None` -> float.

  Sequences are tuples, the only ones that flags can set; str if nothing better is known.
  """
  kinds = {type(c) if o is Literal else o for h in _members(hint) for o, c in _kinds(h)}
  if kinds & {tuple, list, Sequence}:
    return tuple
  return next((kind for kind in (str, float, int, bool) if kind in kinds), str)


def _kinds(hint: Any) -> Iterator[tuple[Any, Any]]:
  origin = typing.get_origin(hint) or hint
  yield from (
    ((origin, choice) for choice in typing.get_args(hint))
    if origin is Literal
    else ((origin, None),)
  )


# ---------------------------------------------------------------- checks
def check(
  factory: Callable,
  values: Mapping[str, Any],
  *,
  what: str,
  prefix: str = '',
  given: Collection[str] = (),
  complete: bool = True,
) -> None:
  """Refuses what the annotations of a factory do not allow.

  Args:
    values: options by name.
    what: names the factory in a message about an option that it does not have.
    prefix: stands before the key in messages about a value, such as 'method.'.
    given: options that the library fills in and that nobody else may set.
    complete: options without a default must be there, and `OnlyWith` is checked.

  Raises:
    UserError: unknown or missing options, and values of another type, outside of the bounds, or
      without any effect.
  """
  kinds = {p.kind for p in inspect.signature(factory).parameters.values()}
  known = {k: option for k, option in options_of(factory).items() if k not in given}
  if inspect.Parameter.VAR_KEYWORD not in kinds:
    for key in values:
      if key not in known:
        raise UserError(f'{what} has no option {key!r}: {hint(key, known)}it takes {listed(known)}')
  for key, option in known.items():
    if key in values:
      check_value(f'{prefix}{key}', values[key], option.hint)
    elif complete and option.default is inspect.Parameter.empty:
      raise UserError(f'{what} needs a value for {key}')
  for key, option in known.items() if complete else ():
    if key not in values or values[key] == option.default:
      continue
    for fact in option.facts:
      if isinstance(fact, OnlyWith) and not fact.holds(known, values):
        raise UserError(
          f'{prefix}{key}={values[key]} has no effect unless {fact}: set that too, or leave {key} '
          f'at {option.default}'
        )


def check_value(key: str, value: Any, hint: Any) -> None:
  """Refuses a value that an annotation does not allow.

  Raises:
    UserError: one sentence with the key, the value and what is allowed.
  """
  if SEVERAL in getattr(hint, '__metadata__', ()) and isinstance(value, tuple | list):
    if not value:
      raise UserError(f'{key} is empty: give {describe(hint)}')
    for each in value:
      check_value(key, each, hint)
  elif not _allows(hint, value):
    raise UserError(f'{key}={_shown(value)} is not allowed: give {describe(hint)}')


def _members(hint: Any) -> list[Any]:
  """The alternatives of a union, seen through `Annotated`; [hint] if it is none."""
  if typing.get_origin(hint) is Annotated:
    inner, *facts = typing.get_args(hint)
    return [Annotated[m, *facts] if m is not type(None) else m for m in _members(inner)]
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    return [m for arg in typing.get_args(hint) for m in _members(arg)]
  return [hint]


def _allows(hint: Any, value: Any) -> bool:
  return any(_member_allows(member, value) for member in _members(hint))


def _member_allows(hint: Any, value: Any) -> bool:
  facts: tuple[Any, ...] = ()
  while typing.get_origin(hint) is Annotated:
    facts, hint = (*hint.__metadata__, *facts), hint.__origin__
  if not _is_a(hint, value):
    return False
  if isinstance(value, numbers.Real) and not isinstance(value, bool):
    finite = math.isfinite(value) or (math.isinf(value) and INFINITY_ALLOWED in facts)
    return finite and all(_meets(bound, value) for bound in _bounds(facts))
  return all(_meets(bound, value) for bound in _bounds(facts))


def _is_a(hint: Any, value: Any) -> bool:
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any or isinstance(hint, TypeVar):
    return True
  if origin is Literal:
    return any(value == choice and type(value) is type(choice) for choice in args)
  if hint is None or hint is type(None):
    return value is None
  if hint is float:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
  if hint is int:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
  kind = origin or hint
  if kind in (tuple, list, Sequence):
    if isinstance(value, str) or not isinstance(value, tuple | list):
      return False
    if kind is tuple and args and args[-1] is not Ellipsis:
      return len(value) == len(args) and all(map(_allows, args, value))
    return all(_allows(args[0], each) for each in value) if args else True
  return isinstance(value, kind) if isinstance(kind, type) else True


def _bounds(facts: Sequence[Any]) -> Iterator[Any]:
  for fact in facts:
    if isinstance(fact, at.GroupedMetadata):
      yield from fact
    elif isinstance(fact, at.BaseMetadata):
      yield fact


def _meets(bound: Any, value: Any) -> bool:
  if isinstance(bound, at.Gt):
    return value > bound.gt
  if isinstance(bound, at.Ge):
    return value >= bound.ge
  if isinstance(bound, at.Lt):
    return value < bound.lt
  if isinstance(bound, at.Le):
    return value <= bound.le
  if isinstance(bound, at.MultipleOf):
    return value % bound.multiple_of == 0
  if isinstance(bound, at.MinLen):
    return len(value) >= bound.min_length
  if isinstance(bound, at.MaxLen):
    return len(value) <= bound.max_length
  raise TypeError(f'no rule for the bound {bound!r}')


# ---------------------------------------------------------------- what is allowed, in words
def describe(hint: Any) -> str:
  """What an annotation allows, such as 'a number greater than 0, or None'."""
  return ', or '.join(dict.fromkeys(map(_describe_member, _members(hint))))


def _describe_member(hint: Any) -> str:
  facts: tuple[Any, ...] = ()
  while typing.get_origin(hint) is Annotated:
    facts, hint = (*hint.__metadata__, *facts), hint.__origin__
  origin = typing.get_origin(hint)
  args: Sequence[Any] = typing.get_args(hint)
  if hint is type(None):
    return 'None'
  bounds = ' and '.join(map(_describe_bound, _bounds(facts)))
  if origin is Literal:
    words = ('one of ' if len(args) > 1 else '') + ', '.join(map(repr, args))
  elif (origin or hint) in (tuple, list, Sequence):
    if args and args[-1] is not Ellipsis and (origin or hint) is tuple:
      words = '(' + ', '.join(map(describe, args)) + ')'
    else:
      words = ''.join(['a sequence', *(f', each {describe(arg)}' for arg in args[:1])])
  else:
    names = {float: 'a number', int: 'a whole number', bool: 'True or False', str: 'a string'}
    words = names.get(hint, getattr(hint, '__name__', str(hint)))
  return f'{words} {bounds}'.strip()


def _describe_bound(bound: Any) -> str:
  if isinstance(bound, at.Gt):
    return f'greater than {bound.gt}'
  if isinstance(bound, at.Ge):
    return f'of at least {bound.ge}'
  if isinstance(bound, at.Lt):
    return f'less than {bound.lt}'
  if isinstance(bound, at.Le):
    return f'of at most {bound.le}'
  if isinstance(bound, at.MultipleOf):
    return f'that is a multiple of {bound.multiple_of}'
  if isinstance(bound, at.MinLen):
    return f'with at least {bound.min_length} entries'
  return f'with at most {bound.max_length} entries'


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 80 else f'{text[:77]}...'
