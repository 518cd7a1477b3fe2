"""Names and options that a user writes: one way to look them up, one sentence to refuse them."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from clr_jax.core.errors import UserError

T = TypeVar('T')
Factory = TypeVar('Factory', bound=Callable)


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
  """table[name], or a UserError that suggests the nearest name and lists them all."""
  check_name(table, name, what)
  return table[name]


def check_name(names: Iterable[str], name: str, what: str) -> None:
  """UserError unless `name` is one of `names`; `what` says what it is the name of."""
  names = list(names)
  if name not in names:
    raise UserError(f'unknown {what} {name!r}: {_hint(name, names)}choose one of {_list(names)}')


def keyword_only(factory: Callable) -> dict[str, inspect.Parameter]:
  """The options of a factory by name: its keyword-only parameters."""
  parameters = inspect.signature(factory).parameters
  return {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def takes_options_of(inner: Callable) -> Callable[[Factory], Factory]:
  """Decorates a factory that hands its `**options` on to `inner`: these are its options then.

  They keep the default and the type that `inner` gives them, and stand behind the factory's own,
  which hide those of the same name.
  """

  def decorate(factory: Factory) -> Factory:
    signature = inspect.signature(factory)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    taken = {k: p for k, p in keyword_only(inner).items() if k not in signature.parameters}
    types = {k: t for k, t in typing.get_type_hints(inner).items() if k in taken}
    factory.__signature__ = signature.replace(parameters=[*own, *taken.values()])
    factory.__annotations__ = {**factory.__annotations__, **types}
    return factory

  return decorate


def refuse_changed(
  factory: Callable, options: Mapping[str, Any], *, prefix: str, reason: str
) -> None:
  """UserError for one of the options that is not as in `factory`'s signature: nothing reads it.

  Args:
    prefix: of the options in the config, such as 'method'.
    reason: why nothing does, and what to change.
  """
  for key, parameter in keyword_only(factory).items():
    if key in options and parameter.default not in (parameter.empty, options[key]):
      raise UserError(f'{prefix}.{key}={options[key]} does nothing {reason}')


def check_options(
  what: str,
  factory: Callable,
  options: Collection[str],
  *,
  given: Collection[str] = (),
  rest: Callable | None = None,
  complete: bool = True,
) -> None:
  """UserError unless `options` (names, or a dict) are options of `factory`.

  Args:
    what: names the factory in the message, such as "model 'resnet18'".
    given: options that the library fills in and that nobody else may set.
    rest: where a factory with `**kwargs` hands these on; without it, they are not checked here.
    complete: options without a default must be there.
  """
  kinds = {p.kind for p in inspect.signature(factory).parameters.values()}
  passes_on = inspect.Parameter.VAR_KEYWORD in kinds
  own = keyword_only(factory)
  handed_on = keyword_only(rest) if rest and passes_on else {}
  known = {k: p for k, p in {**own, **handed_on, **own}.items() if k not in given}
  for key in options if rest or not passes_on else ():
    if key not in known:
      raise UserError(f'{what} has no option {key!r}: {_hint(key, known)}it takes {_list(known)}')
  for key, parameter in known.items():
    if complete and parameter.default is parameter.empty and key not in options:
      raise UserError(f'{what} needs a value for {key}')


def _hint(name: Any, names: Iterable[str]) -> str:
  close = difflib.get_close_matches(str(name), list(names), 1)
  return f'did you mean {close[0]!r}? ' if close else ''


def _list(names: Iterable[str]) -> str:
  return ', '.join(names) or 'none'
