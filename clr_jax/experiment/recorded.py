"""Configs that runs have recorded, completed by the options that the library has got since.

An option that a recorded config lacks has the value with which the run was trained: its default, or
that of `Formerly` in its annotation. Recorded values always win.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.names import listed
from clr_jax.core.options import OPTIONAL, REQUIRED, Option, typed
from clr_jax.experiment.schema import check_config, sections
from clr_jax.rundir.config_records import config_records, read_config
from clr_jax.rundir.workdir import Workdir

_MOST_SAID = 8  # options in a line


def read_recorded(directory: epath.PathLike) -> Config:
  """Reads the config of a run's last start, completes and checks it.

  Prints one line if it lacks options.

  Args:
    directory: workdir of the run.

  Raises:
    UserError: the directory is not a run, or its config does not fit, because it was changed or is
      of another version; unknown keys are named.
  """
  run = Workdir(directory)
  config, added = complete(read_config(run))
  try:
    check_config(config)
  except UserError as error:
    reason = str(error).partition(': ')[0]
    raise UserError(
      f'the config.json of {run.path} cannot be used ({reason}): it was changed or written by '
      f'another version of clr-jax, so use that version or give another workdir'
    ) from error
  _say(added, run)
  return config.lock()


def read_leniently(run: Workdir) -> Config:
  """Reads the config of a run's last start, completed as far as possible but not checked.

  Raises:
    UserError: the directory is not a run.
  """
  return complete(read_config(run))[0].lock()


def say_lacking(run: Workdir) -> None:
  """Prints one line if a run is there whose config lacks options."""
  if config_records(run):
    _say(complete(read_config(run))[1], run)


def _say(added: Mapping[str, Any], run: Workdir) -> None:
  if added and jax.process_index() == 0:
    shown = [f'{key}={value}' for key, value in added.items()][:_MOST_SAID]
    values = listed(shown) + f' and {len(added) - _MOST_SAID} more' * (len(added) > _MOST_SAID)
    _print_once(
      f'{run.path} is of an earlier version of clr-jax; options that its config.json lacks are '
      f'taken as {values}'
    )


@functools.cache
def _print_once(sentence: str) -> None:
  print(sentence, file=sys.stderr, flush=True)


def complete(config: Config) -> tuple[Config, dict[str, Any]]:
  """Copies a recorded config and adds the options that it lacks.

  Returns:
    The config, and the added values by dotted key, without options that every config may lack.
  """
  config, added = config.copy_and_resolve_references(), {}
  with config.unlocked(), config.ignore_type():
    for key, option in _with_defaults(config).items():
      path, _, leaf = key.rpartition('.')
      node = _section_of(config, path, make=True)
      if node is not None and leaf not in node:
        node[leaf] = typed(option, option.recorded_default)
        if OPTIONAL not in option.facts:
          added[key] = option.recorded_default
  return config, added


def recorded_defaults(config: Config) -> dict[str, Any]:
  """Values by dotted key of all options of a config for runs whose records lack them."""
  return {key: option.recorded_default for key, option in _with_defaults(config).items()}


def _with_defaults(config: Config) -> dict[str, Option]:
  """Options with defaults by dotted key, including those of sections that are missing.

  A missing section counts if all of its options have defaults; a section whose `name` is missing or
  unknown does not. No name, such as that of the data set, is taken from a default.
  """
  found = {}
  for path, section in sections().items():
    node = _section_of(config, path)
    if node is None and section.choices:
      continue
    with contextlib.suppress(UserError):
      options = section.options(None if node is None else node.get('name'))
      own = {k: o for k, o in options.items() if o.recorded_default is not REQUIRED and k != 'name'}
      if node is not None or own.keys() == options.keys():
        found |= {f'{path}.{key}' if path else key: option for key, option in own.items()}
  return found


def _section_of(config: Config, path: str, *, make: bool = False) -> Config | None:
  """Section of a config; None if it is missing, unless it is to be made, or not a section."""
  node: Any = config
  for part in path.split('.') if path else ():
    if part not in node and make:
      node[part] = ConfigDict()
    node = node.get(part)
    if not isinstance(node, ConfigDict):
      return None
  return node
