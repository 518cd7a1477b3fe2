"""Configs of commands: of a file with the values of flags, or of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from clr_jax.cli import overrides
from clr_jax.cli.overrides import Given, Keys
from clr_jax.core import user_code
from clr_jax.core.config_tree import Config
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation.registry import with_all_options
from clr_jax.experiment import schema
from clr_jax.experiment.config_files import open_file
from clr_jax.experiment.recorded import read_recorded
from clr_jax.experiment.schema import check_config, with_types
from clr_jax.experiment.switching import names_in, switch


def load_config(spec: str, modules: Sequence[str], given: Given) -> tuple[Config, list[str]]:
  """Loads the config of a file and sets the given values.

  Args:
    spec: config file, as in --config=FILE:ARG.
    modules: the user's modules, as in --imports=FILE.py.
    given: values of keys.

  Returns:
    The config, and a sentence for each section that was rebuilt, to be said once nothing is
    refused any more.
  """
  imports = user_code.load(modules, chosen=True)
  config, complete = open_file(spec)
  if imports:
    with config.unlocked(), config.ignore_type():
      config.imports = (*config.get('imports', ()), *imports)
  check_config(config)
  said = switch(config, names_in(dict(given)))
  overrides.apply(config, given, 'config', known=with_all_options(config))
  check_config(config)
  said += complete(config, [key for key, _ in given])
  check_config(config)
  return config, said


def say(sentences: Iterable[str]) -> None:
  """Prints sentences on standard error."""
  print(*(f'{line}\n' for line in sentences), sep='', end='', file=sys.stderr, flush=True)


def stored_config(directory: str) -> Config:
  """Config of the run in a directory, checked; UserError if there is none."""
  return with_types(read_recorded(directory))


def keys_of(config: Config) -> Keys:
  """Keys of a config, including those of its protocols."""
  texts = schema.option_texts(config)
  for name in set(config.get('eval', {}).get('protocols', {})) & set(protocols.names()):
    found = protocols.option_texts(name)
    texts |= {f'eval.protocols.{name}.{key}': text for key, text in found.items()}
  return Keys(protocols.with_all_options(config), texts)
