"""The options of each section of a config, and the check of a whole config before any work.

A section has the options of functions of the library, and those of the factory that its `name`
chooses. Defaults, types, choices, bounds and facts of an option are in these signatures.
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
  """The sources of a section's options.

  Attributes:
    functions: functions whose keyword-only parameters are options; the first takes precedence.
    choices: factories of which `name` chooses one, whose options are added.
    filled_in: options of either that the library fills in.
  """

  functions: tuple[Callable[..., Any], ...] = ()
  choices: Registry[Any] | None = None
  filled_in: tuple[str, ...] = ()

  def options(self, name: Any = None) -> dict[str, Option]:
    """All options by name; UserError if `name` is not one of the choices."""
    chosen = (self.choices.factory(name),) if self.choices else ()
    found: dict[str, Option] = {}
    for function in (*self.functions, *chosen):
      found = {**options_of(function), **found}
    return {key: option for key, option in found.items() if key not in self.filled_in}


_SECTIONS: dict[str, Section] = {
  '': Section((settings.Run,)),
  'data': Section((settings.Data,)),
  'augment': Section(choices=augment.REGISTRY),
  'model': Section(choices=models.REGISTRY, filled_in=('dtype', 'norm_terms', 'attention')),
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
  """All sections by dotted key, parents first; '' is the config itself."""
  plugins = {f'plugins.{name}': Section((f,)) for name, f in plugin_factories().items()}
  return _SECTIONS | plugins


def section(path: str, **given: Any) -> Config:
  """Makes a section with the defaults of its options, some replaced by `given`.

  Raises:
    UserError: an unknown name or option, or a value that is not allowed.
  """
  part = sections()[path]
  name = given.pop('name', None) if part.choices else None
  return component(part.options(name), name, **given)


class _Part(NamedTuple):
  """A section of a config with its values, including nested sections."""

  path: str
  section: Section
  name: Any
  options: dict[str, Option]
  values: dict[str, Any]

  @property
  def prefix(self) -> str:
    return f'{self.path}.' if self.path else ''


def _parts(config: Config) -> Iterator[_Part]:
  """Existing sections, parents first."""
  found, known = {'': to_dict(config)}, sections()
  for path, part in known.items():
    if path not in found:
      continue
    values = found[path]
    name = values.pop('name', None) if part.choices else None
    options = part.options(name)
    # A plug-in that is newer than the config is off.
    inside = Option(REQUIRED, Annotated[Mapping, OPTIONAL] if path == 'plugins' else Mapping)
    for below in known:
      above, _, key = below.rpartition('.')
      if above == path and below:
        options[key] = inside
        if isinstance(values.get(key), Mapping):
          found[below] = dict(values[key])
    yield _Part(path, part, name, options, values)


# Sections of which `config_base.get_config` makes none.
_EXAMPLES = {
  'augment': "views('simclr', size=32)",
  'model': "model('resnet18')",
  'method': "method('simclr')",
  'optimizer': "optimizer('sgd', learning_rate=0.1)",
}


def switched_off(config: Config, *paths: str) -> Config:
  """Copies a config with sections at their defaults and off, such as 'probe' and 'telemetry'."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for path in paths:
      config[path] = section(path, enabled=False)
  return config


def check_config(config: Config) -> None:
  """Raises an error for an invalid config before any work.

  Executes the modules of `config.imports` first, if needed. `clr_jax.evaluation` checks
  `config.eval.protocols`, together with its data.

  Raises:
    UserError: a missing or unknown section or option, or a value that is not allowed.
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
    if not part.path:
      _check_sections(part)
    check(part.options, part.values, what=what, prefix=part.prefix)
    for key, option in part.options.items():
      if key not in part.values and OPTIONAL not in option.facts:
        raise UserError(
          f'{part.prefix}{key} is missing: make the section with the function of '
          f'clr_jax.experiment.config_base for it, so that the run records all of its options'
        )


def _check_sections(whole: _Part) -> None:
  """Raises a UserError with an example for a section that a config file must make itself."""
  missing = [key for key in _EXAMPLES if key not in whole.values]
  if missing and whole.values.keys() <= whole.options.keys():  # else one may be misspelled
    raise UserError(
      f'the config needs a value for {missing[0]}: set, for example, '
      f'config.{missing[0]} = config_base.{_EXAMPLES[missing[0]]}'
    )


def _check_name_alone(part: _Part) -> None:
  """Raises an error for a `name` that was changed without its options.

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
      f'config_base for the section, all of which rebuild the whole section'
    )


def option_texts(config: Config) -> dict[str, str]:
  """Descriptions of the keys of a config by dotted key, from docstrings.

  An option without a description is described by its allowed values.
  """
  texts = {}
  for part in _parts(config):
    if part.section.choices:
      texts[f'{part.prefix}name'] = f'one of {", ".join(part.section.choices.names())}'
    for key, option in part.options.items():
      texts[f'{part.prefix}{key}'] = option.text or describe(option.hint)
  return texts


def keys_without_effect(config: Config) -> frozenset[str]:
  """Dotted keys that do not affect training; each includes all keys below it."""
  return frozenset(
    f'{part.prefix}{key}'
    for part in _parts(config)
    for key, option in part.options.items()
    if NO_EFFECT_ON_TRAINING in option.facts
  )


def with_types(config: Config) -> Config:
  """Copies a config so that each None has the type of its option, for flags to replace it."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for part in _parts(config):
      node = value_at(config, part.path) if part.path else config
      for key, option in part.options.items():
        if key in node and node[key] is None:
          del node[key]
          node[key] = typed(option, None)
  return config
