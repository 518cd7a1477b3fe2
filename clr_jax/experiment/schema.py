"""Which options each section of a config has; all of a config is checked here, before any work.

A section has the options of functions of the library, and those of the factory that its `name`
chooses. Nothing about an option is said here: default, type, choices, bounds and facts stand in the
signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from ml_collections import ConfigDict

from clr_jax import augment, methods, models, optim
from clr_jax.core import user_code
from clr_jax.core.config_tree import Config, to_dict, value_at
from clr_jax.core.errors import UserError
from clr_jax.core.options import (
  NO_EFFECT_ON_TRAINING,
  OPTIONAL,
  REQUIRED,
  Option,
  check,
  component,
  describe,
  options_of,
  typed,
)
from clr_jax.core.registry import Registry
from clr_jax.experiment import settings
from clr_jax.experiment.method import plugin_factories
from clr_jax.optim import schedules
from clr_jax.wrappers.online_probe import online_probe
from clr_jax.wrappers.telemetry import telemetry


class Section(NamedTuple):
  """Where the options of a section come from.

  Attributes:
    functions: their keyword-only parameters are options; the first that has one counts.
    choices: `name` chooses one of these, whose options are options, too.
    filled_in: options of either that the library fills in.
  """

  functions: tuple[Callable[..., Any], ...] = ()
  choices: Registry[Any] | None = None
  filled_in: tuple[str, ...] = ()

  def options(self, name: Any = None) -> dict[str, Option]:
    """All options by name; UserError if `name` is none of the choices."""
    chosen = (self.choices.factory(name),) if self.choices else ()
    found: dict[str, Option] = {}
    for function in (*self.functions, *chosen):
      found = {**options_of(function), **found}
    return {key: option for key, option in found.items() if key not in self.filled_in}


_SECTIONS: dict[str, Section] = {
  '': Section((settings.Run,)),
  'data': Section((settings.Data,)),
  'augment': Section(choices=augment.REGISTRY),
  'model': Section(choices=models.REGISTRY, filled_in=('dtype', 'norm_terms')),
  'method': Section(choices=methods.REGISTRY, filled_in=('plugins',)),
  'plugins': Section(),
  'optimizer': Section((schedules.scaled_lr,), optim.REGISTRY, filled_in=('sam',)),
  'schedule': Section(
    choices=schedules.REGISTRY, filled_in=('peak', 'steps_per_epoch', 'total_steps')
  ),
  'sam': Section((optim.sharpness_aware,)),
  'probe': Section((online_probe,)),
  'telemetry': Section((telemetry,)),
  'eval': Section((settings.Evaluation,)),
}


def sections() -> dict[str, Section]:
  """All sections by dotted key, each after the one that it is in; '' is the config itself."""
  plugins = {f'plugins.{name}': Section((f,)) for name, f in plugin_factories().items()}
  return _SECTIONS | plugins


def section(path: str, **given: Any) -> Config:
  """A section with the defaults of its options, `given` replacing some.

  Raises:
    UserError: an unknown name or option, or a value that is not allowed.
  """
  part = sections()[path]
  name = given.pop('name', None) if part.choices else None
  return component(part.options(name), name, **given)


class _Part(NamedTuple):
  """A section of a config with its values; sections inside of it are options, too."""

  path: str
  section: Section
  name: Any
  options: dict[str, Option]
  values: dict[str, Any]

  @property
  def prefix(self) -> str:
    return f'{self.path}.' if self.path else ''


def _parts(config: Config) -> Iterator[_Part]:
  """The sections that are there, each after the one that it is in."""
  found, known = {'': to_dict(config)}, sections()
  for path, part in known.items():
    if path not in found:
      continue
    values = found[path]
    name = values.pop('name', None) if part.choices else None
    options = part.options(name)
    # A plug-in that is younger than the config is off.
    inside = Option(REQUIRED, Annotated[Mapping, OPTIONAL] if path == 'plugins' else Mapping)
    for below in known:
      above, _, key = below.rpartition('.')
      if above == path and below:
        options[key] = inside
        if isinstance(values.get(key), Mapping):
          found[below] = dict(values[key])
    yield _Part(path, part, name, options, values)


def check_config(config: Config) -> None:
  """Refuses what no part of the library would understand, before any work.

  Runs the modules of `config.imports` first, where they have not run yet. `clr_jax.evaluation`
  checks `config.eval.protocols`, with the data that it is about.

  Raises:
    UserError: in one sentence, for a section or an option that is missing or unknown, and for a
      value that is not allowed.
  """
  if not isinstance(config, ConfigDict):
    raise UserError(
      f'the config is a {type(config).__name__}: give a ConfigDict, made with '
      f'clr_jax.experiment.config_base.get_config()'
    )
  user_code.load(to_dict(config).get('imports') or ())
  for part in _parts(config):
    choices = part.section.choices
    what = f'{choices.what} {part.name!r}' if choices else part.path or 'the config'
    _check_name_alone(part)
    check(part.options, part.values, what=what, prefix=part.prefix)
    for key, option in part.options.items():
      if key not in part.values and OPTIONAL not in option.facts:
        raise UserError(
          f'{part.prefix}{key} is missing: make the section by the function of '
          f'clr_jax.experiment.config_base for it, so that the run records all of its options'
        )


def _check_name_alone(part: _Part) -> None:
  """Refuses a `name` that was changed without the options that belong to it.

  Raises:
    UserError: the section has the options of another choice.
  """
  choices = part.section.choices
  strange = [key for key in part.values if key not in part.options]
  if choices is None or not strange:
    return
  others = [n for n in choices.names() if set(strange) <= part.section.options(n).keys()]
  if others:
    raise UserError(
      f'{part.path}.name={part.name} does not fit the other keys of {part.path}, such as '
      f'{part.prefix}{strange[0]} of {others[0]!r}: choose it by a flag of train, '
      f'--config.{part.path}.name={part.name}, by clr_jax.load_config(FILE, '
      f"{{'{part.path}.name': {part.name!r}}}), or in the config file by the function of "
      f'config_base for the section, each of which makes the whole section anew'
    )


def option_texts(config: Config) -> dict[str, str]:
  """Descriptions of the keys of a config by dotted key, in the words of docstrings.

  An option that its docstring does not mention is described by what it may be.
  """
  texts = {}
  for part in _parts(config):
    if part.section.choices:
      texts[f'{part.prefix}name'] = f'one of {", ".join(part.section.choices.names())}'
    for key, option in part.options.items():
      texts[f'{part.prefix}{key}'] = option.text or describe(option.hint)
  return texts


def keys_without_effect(config: Config) -> frozenset[str]:
  """Dotted keys that do not change what is trained; each stands for all keys below it."""
  return frozenset(
    f'{part.prefix}{key}'
    for part in _parts(config)
    for key, option in part.options.items()
    if NO_EFFECT_ON_TRAINING in option.facts
  )


def with_types(config: Config) -> Config:
  """A copy in which each None has the type of its option, so that a flag can replace it."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for part in _parts(config):
      node = value_at(config, part.path) if part.path else config
      for key, option in part.options.items():
        if key in node and node[key] is None:
          del node[key]
          node[key] = typed(option, None)
  return config
