"""Protocols by name: their options, and checks before any computation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.options import Option, component, describe, options_of, sweep, takes_several
from clr_jax.core.options import check as check_options
from clr_jax.evaluation.probing.outputs import output_classes
from clr_jax.evaluation.probing.planned import Program, Sizes
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import FEATURES, Subject
from clr_jax.evaluation.protocols import PROTOCOLS
from clr_jax.experiment.build import Experiment
from clr_jax.experiment.schema import with_types
from clr_jax.models.tokens import check_tokens
from clr_jax.rundir.table import format_table

Records = Iterable[Mapping[str, Any]]


def names() -> list[str]:
  """Names of all protocols."""
  return PROTOCOLS.names()


def parameters(name: str, given: Mapping[str, Any] | None = None) -> Config:
  """Options of a protocol with their defaults, as set by `--params.KEY=VALUE`.

  Args:
    name: name of the protocol.
    given: values to set; single values become tuples where several are allowed.

  Raises:
    UserError: an option that the protocol does not have or allow.
  """
  options = _options(name)
  given = _several(options, given or {})
  check_options(options, given, what=name, prefix=f'eval.protocols.{name}.', complete=False)
  return component(options, None, **given)


def option_texts(name: str) -> dict[str, str]:
  """Descriptions of the options of a protocol, in the words of docstrings."""
  return {k: option.text or describe(option.hint) for k, option in _options(name).items()}


def _options(name: str) -> Mapping[str, Option]:
  module = PROTOCOLS.module(name)
  own = hasattr(module, 'parameters')
  return module.parameters() if own else options_of(PROTOCOLS.factory(name))


def with_all_options(config: Config) -> Config:
  """Copies a config, with typed values, and completes the options of its `eval.protocols`."""
  config = with_types(config)
  asked = config.get('eval', {}).get('protocols', {})
  with config.unlocked():
    for name in set(asked) & set(names()):
      if asked[name] is not None:
        asked[name] = parameters(name, asked[name])
  return config


def needs_network(name: str) -> bool:
  """True if a protocol cannot measure raw pixels."""
  return getattr(PROTOCOLS.module(name), 'NEEDS_NETWORK', False)


def needs_probe(name: str) -> bool:
  """True if a protocol measures the online probe."""
  return getattr(PROTOCOLS.module(name), 'NEEDS_PROBE', False)


def table(name: str) -> Callable[[Records], str]:
  """Function that formats a table of a protocol's records."""
  return getattr(PROTOCOLS.module(name), 'table', format_table)


def units(name: str, options: Mapping[str, Any], *, prefix: str = '') -> list[dict[str, Any]]:
  """Options of each measurement, one per combination of several values.

  Args:
    name: name of the protocol.
    options: options of the protocol.
    prefix: text before an option in messages, such as '--params.'; default: 'NAME: '.

  Raises:
    UserError: an option that the protocol does not have or allow.
  """
  measure, module = PROTOCOLS.factory(name), PROTOCOLS.module(name)
  given = _several(options_of(measure), options)
  # With a preset, the protocol itself checks which options have an effect.
  complete = not given.get('preset')
  check_options(measure, given, what=name, prefix=prefix or f'{name}: ', complete=complete)
  if hasattr(module, 'check_together'):
    module.check_together(given, prefix or f'{name}: ')
  return list(sweep(measure, given))


def check(
  sets: Sets, name: str, options: Mapping[str, Any], kinds: Iterable[str], *, prefix: str = ''
) -> None:
  """Raises errors early that a protocol would raise only after computing features.

  Args:
    sets: sets to evaluate on.
    name: name of the protocol.
    options: options of the protocol.
    kinds: kinds of features, some of FEATURES.
    prefix: see `units`.

  Raises:
    UserError: options or sets that the protocol cannot measure.
  """
  module = PROTOCOLS.module(name)
  for kind in kinds:
    check_name((*FEATURES, 'weights'), kind, 'features')
    if kind == 'pixels' and needs_network(name):
      raise UserError(f'{name} needs a network: leave pixels out of the features')
  if not hasattr(module, 'on_target'):
    sets.refuse_other_classes()
  for unit in units(name, options, prefix=prefix):
    if hasattr(module, 'check'):
      with _naming(name, prefix):
        module.check(sets, unit)


@contextlib.contextmanager
def _naming(name: str, prefix: str) -> Iterator[None]:
  """Context manager that adds the protocol to a UserError that begins with an option."""
  try:
    yield
  except UserError as error:
    key = str(error).partition('=')[0]
    if key not in options_of(PROTOCOLS.factory(name)):
      raise
    raise UserError(f'{prefix or f"{name}: "}{error}') from error


def check_network(experiment: Experiment, sets: Sets, name: str) -> None:
  """Raises a UserError if a protocol needs tokens, or logits for the sets' classes, in vain."""
  module = PROTOCOLS.module(name)
  if getattr(module, 'NEEDS_TOKENS', False):
    check_tokens(experiment.backbone, experiment.config.model.name)
  if not hasattr(module, 'OUTPUT') or not sets.labeled:
    return
  classes = output_classes(experiment, module.OUTPUT)
  if classes is None:
    raise UserError(module.WITHOUT_OUTPUT)
  if classes != sets.train.num_classes:
    raise UserError(
      f'{name}: the network knows {classes} classes and {sets.train.name} has '
      f'{sets.train.num_classes}: evaluate it on the data of its training'
    )


def planned() -> list[str]:
  """Names of the protocols whose programs are known without data."""
  return [name for name in names() if hasattr(PROTOCOLS.module(name), 'programs')]


def programs(
  name: str, options: Mapping[str, Any], sizes: Sizes, devices: Sequence[Any]
) -> Iterator[Program]:
  """Yields the programs that a protocol runs on features.

  Args:
    name: name of the protocol, one of `planned`.
    options: options of the protocol.
    sizes: sizes of the sets and of the features.
    devices: devices of one process.

  Raises:
    UserError: options that the protocol does not allow for these sizes.
  """
  prefix = f'eval.protocols.{name}.'
  for unit in units(name, options, prefix=prefix):
    with _naming(name, prefix):
      yield from PROTOCOLS.module(name).programs(sizes, unit, devices)


def check_classes(sets: Sets, name: str) -> None:
  """Raises a UserError if a protocol fits a classifier and a test class has no training example."""
  if getattr(PROTOCOLS.module(name), 'FITS_CLASSES', False):
    sets.refuse_unseen_classes()


def on_target(name: str, subject: Subject, unit: Mapping[str, Any]) -> Subject:
  """Makes the subject on the sets that the options name, if any."""
  module = PROTOCOLS.module(name)
  return module.on_target(subject, unit) if hasattr(module, 'on_target') else subject


def _several(known: Mapping[str, Option], options: Mapping[str, Any]) -> dict[str, Any]:
  """Converts text to tuples of values where several are allowed."""
  several = {key for key, option in known.items() if takes_several(option)}
  return {key: _values(v) if key in several else v for key, v in options.items()}


def _values(value: Any) -> Any:
  """Splits several values from flags: 'a,b' may be one string, and '' is empty."""
  if not isinstance(value, str | list | tuple):
    return value
  parts = [value] if isinstance(value, str) else value
  texts = (part.split(',') if isinstance(part, str) else [part] for part in parts)
  values = (v.strip() if isinstance(v, str) else v for text in texts for v in text)
  return tuple(v for v in values if v != '')
