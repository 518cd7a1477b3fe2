"""Options: a signature holds default, type, choices and bounds of every hyper-parameter.

The parts of a run (methods, models, policies, optimizers, protocols, ...) are built by functions,
whose keyword-only parameters are options:

    def simclr(backbone, info, *, temperature: Annotated[float, Gt(0)] = 0.5,
               block_size: Annotated[int | None, Ge(1), NO_EFFECT_ON_TRAINING] = None): ...

`component(simclr, 'simclr')` writes them into a config, so that a run records all of them and each
is a flag; `check` rejects values that the annotations do not allow; `build` checks and calls.
Annotations are built from `clr_jax.core.annotations` and `OnlyWith`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from ml_collections import ConfigDict, config_dict

from clr_jax.core.annotations import DISTINCT as DISTINCT
from clr_jax.core.annotations import INCREASING as INCREASING
from clr_jax.core.annotations import INFINITY_ALLOWED as INFINITY_ALLOWED
from clr_jax.core.annotations import NO_EFFECT_ON_TRAINING as NO_EFFECT_ON_TRAINING
from clr_jax.core.annotations import OPTIONAL as OPTIONAL
from clr_jax.core.annotations import SEVERAL as SEVERAL
from clr_jax.core.annotations import Formerly as Formerly
from clr_jax.core.annotations import OneOf as OneOf
from clr_jax.core.annotations import check_value as check_value
from clr_jax.core.annotations import describe as describe
from clr_jax.core.annotations import facts_of, value_type
from clr_jax.core.config_tree import to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.names import hint, listed
from clr_jax.core.option_texts import described_by, option_texts

Factory = TypeVar('Factory', bound=Callable)
REQUIRED = inspect.Parameter.empty
"""The default of an option that has none."""


class Option(NamedTuple):
  """One keyword-only parameter of a factory.

  Attributes:
    default: its default, or `REQUIRED`.
    hint: its evaluated annotation, including `Annotated`.
    text: its description in the factory's docstring, on one line, or ''.
  """

  default: Any
  hint: Any
  text: str = ''

  @property
  def facts(self) -> tuple[Any, ...]:
    """Metadata beside the type in the outermost `Annotated`."""
    return facts_of(self.hint)

  @property
  def recorded_default(self) -> Any:
    """Value in a run whose record lacks the option: its default unless `Formerly` says another."""
    return next((fact.value for fact in self.facts if isinstance(fact, Formerly)), self.default)


@dataclasses.dataclass(frozen=True)
class OnlyWith:
  """The option has an effect only if another is set, as in `OnlyWith('angular', 'subtractive')`.

  Conditions on options that a signature does not have count as met: a plug-in may name a switch
  that exists only in its section of a config.

  Attributes:
    options: met if one of these differs from its default.
    values: met, too, if one of these has a listed value, such as {'schedule': ('step',)}.
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
    """True if `values` meet one of the conditions; missing values are defaults."""
    if not {*self.options, *self.values} <= options.keys():
      return True
    value_of = {k: values.get(k, option.default) for k, option in options.items()}
    return any(value_of[k] != options[k].default for k in self.options) or any(
      value_of[k] in allowed for k, allowed in self.values.items()
    )

  def describe(self, prefix: str = '') -> str:
    """Describes the conditions; `prefix` precedes the names of the options."""
    choices = [f'{prefix}{k}={" or ".join(map(str, v))}' for k, v in self.values.items()]
    return ' or '.join([f'{prefix}{k} is set' for k in self.options] + choices)


def keyword_only(factory: Callable) -> dict[str, inspect.Parameter]:
  """Keyword-only parameters of a factory by name."""
  parameters = inspect.signature(factory).parameters
  return {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def options_of(factory: Callable) -> dict[str, Option]:
  """Options of a factory by name."""
  hints = _hints(getattr(factory, 'func', factory))
  texts = option_texts(factory)
  return {
    k: Option(p.default, hints.get(k, Any), texts.get(k, ''))
    for k, p in keyword_only(factory).items()
  }


@functools.lru_cache(maxsize=1024)
def _hints(factory: Callable) -> dict[str, Any]:
  """Annotations by name; cached, because Python has to compile each of them."""
  return typing.get_type_hints(factory, include_extras=True)


def takes_options_of(
  inner: Callable, *facts: Any, without: Collection[str] = (), **defaults: Any
) -> Callable[[Factory], Factory]:
  """Decorator for a factory that passes `**options` to `inner`: adds the options of `inner`.

  They keep their defaults and annotations and follow the factory's own options, which take
  precedence.

  Args:
    facts: facts to add to each of them, such as `OnlyWith(name='sam')`; OPTIONAL removes their
      defaults, because the factory has its own.
    without: options of `inner` that the factory fills in.
    **defaults: other defaults for options of `inner`.
  """

  def decorate(factory: Factory) -> Factory:
    signature = inspect.signature(factory)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    hints, taken = {}, []
    for key, option in options_of(inner).items():
      if key not in (*signature.parameters, *without):
        hints[key] = Annotated[option.hint, *facts] if facts else option.hint
        default = REQUIRED if OPTIONAL in facts else defaults.get(key, option.default)
        taken.append(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default))
    decorated: Any = factory
    if defaults:

      def with_defaults(*args, **options):
        return factory(*args, **{**defaults, **options})

      decorated = functools.wraps(factory)(with_defaults)
    decorated.__signature__ = signature.replace(parameters=[*own, *taken])
    decorated.__annotations__ = {**factory.__annotations__, **hints}
    return described_by(inner)(decorated)

  return decorate


# ---------------------------------------------------------------- configs
Options = Callable | Mapping[str, Option]
"""A factory, or options by name."""


def component(options: Options, name: str | None = None, /, **given: Any) -> Any:
  """Makes a ConfigDict of the options' defaults, some replaced by `given`.

  The values have the type of the annotation, so that flags can override them: None becomes a typed
  placeholder, an integer becomes a float where needed, and a single value becomes a tuple where
  several are allowed. Options without a default appear only if given.

  Raises:
    UserError: an unknown key, or a value that is not allowed.
  """
  check(options, given, what=name or _name_of(options), complete=False)
  config = ConfigDict({} if name is None else {'name': name})
  known = _options(options)
  handed_on = {key: Option(value, type(value)) for key, value in given.items()}
  for key, option in {**handed_on, **known}.items():
    value = given.get(key, option.default)
    if value is not REQUIRED:
      config[key] = typed(option, value)
  return config


def build(factory: Callable, config: ConfigDict, *args: Any, prefix: str = '', **fixed: Any) -> Any:
  """Checks the options, then calls `factory(*args, **config, **fixed)` without config's 'name'."""
  given = {k: v for k, v in to_dict(config).items() if k != 'name'}
  what = str(config.get('name') or _name_of(factory))
  check(factory, given, what=what, prefix=prefix, given=fixed)
  return factory(*args, **given, **fixed)


def takes_several(option: Option) -> bool:
  """True if a tuple of values is allowed."""
  return SEVERAL in option.facts or value_type(option.hint) is tuple


def typed(option: Option, value: Any) -> Any:
  """Converts `value` to the type of the option, from which flags take theirs."""
  kind = tuple if takes_several(option) else value_type(option.hint)
  if value is None:
    return config_dict.placeholder(kind)
  if kind is float and type(value) is int:
    return float(value)
  if kind is tuple and (isinstance(value, str) or not isinstance(value, Sequence)):
    return (value,)
  return value


def _options(options: Options) -> Mapping[str, Option]:
  return options if isinstance(options, Mapping) else options_of(options)


def _name_of(options: Options) -> str:
  return getattr(getattr(options, 'func', options), '__name__', 'this')  # unwraps a partial


# ---------------------------------------------------------------- checks
def check(
  options: Options,
  values: Mapping[str, Any],
  *,
  what: str,
  prefix: str = '',
  given: Collection[str] = (),
  complete: bool = True,
) -> None:
  """Raises a UserError for values that the annotations do not allow.

  Args:
    options: a factory, or its options.
    values: values by name.
    what: name of the factory in messages about unknown options.
    prefix: text before the key in messages about a value, such as 'method.'.
    given: options that the library fills in and users may not set.
    complete: True requires all options without a default, and checks `OnlyWith`.

  Raises:
    UserError: unknown or missing options, and values of another type, outside of the bounds, or
      without any effect.
  """
  known = {k: option for k, option in _options(options).items() if k not in given}
  if isinstance(options, Mapping) or not _hands_on(options):
    for key in values:
      if key not in known:
        raise UserError(f'{what} has no option {key!r}: {hint(key, known)}it takes {listed(known)}')
  for key, option in known.items():
    if key in values:
      check_value(f'{prefix}{key}', values[key], option.hint)
    elif complete and option.default is REQUIRED and OPTIONAL not in option.facts:
      raise UserError(f'{what} needs a value for {key}')
  for key, option in known.items() if complete else ():
    if key not in values or values[key] == option.default:
      continue
    for fact in option.facts:
      if isinstance(fact, OnlyWith) and not fact.holds(known, values):
        leave = f'{key} out' if option.default is REQUIRED else f'{key} at {option.default}'
        raise UserError(
          f'{prefix}{key}={values[key]} has no effect unless {fact.describe(prefix)}: set that, '
          f'too, or leave {leave}'
        )


def _hands_on(factory: Callable) -> bool:
  parameters = inspect.signature(factory).parameters.values()
  return any(p.kind is p.VAR_KEYWORD for p in parameters)


def checked(function: Factory) -> Factory:
  """Decorator: calls with options that the annotations do not allow raise a UserError.

  Conditions between options (`OnlyWith`) are left to the function.
  """
  parameters = inspect.signature(function).parameters.values()
  named = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}

  @functools.wraps(function)
  def call(*args: Any, **options: Any) -> Any:
    given = {k: v for k, v in options.items() if k not in named}
    check(function, given, what=_name_of(function), complete=False)
    return function(*args, **options)

  return typing.cast(Factory, call)


def sweep(factory: Callable, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Yields `options` once for each combination of the values of options that are `SEVERAL`.

  This includes defaults with several values.
  """
  values = {}
  for key, option in options_of(factory).items():
    value = options.get(key, option.default)
    if SEVERAL in option.facts and isinstance(value, tuple | list):
      values[key] = value
  for chosen in itertools.product(*values.values()):
    yield {**options, **dict(zip(values, chosen, strict=True))}
