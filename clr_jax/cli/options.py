"""The flags of a command: those of a config, those that every command has, and their list."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from clr_jax.core.config_tree import Config, check_keys, leaves
from clr_jax.core.errors import UserError
from clr_jax.experiment.config_files import load, packaged

HELP = '-h', '--help', '--helpfull'


def define_config(values: flags.FlagValues, argv: list[str]) -> Config:
  """Loads `--config=FILE[:ARG]` and defines a flag for each of its keys."""
  spec = value_of(argv, 'config')
  if spec is None:
    raise UserError(f'--config is missing: give a file or one of {", ".join(packaged())}')
  config = load(spec)
  argv[:] = without(argv, 'config')
  define_dict(values, 'config', config, argv)
  return config


def define_dict(values, name: str, config: Config, argv: list[str]) -> None:
  """Defines `--name.KEY=VALUE` for the leaves of `config`, which the flags then change in place."""
  check_keys(config, assigned(argv, name), f'--{name}.')
  if asks_help(argv):
    for key, value in leaves(config):
      flags.DEFINE_string(f'{name}.{key}', str(value), ' ', flag_values=values)
    return
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    config_flags.DEFINE_config_dict(name, config, flag_values=values, sys_argv=[sys.argv[0], *argv])


def define_distributed(values: flags.FlagValues) -> None:
  """How the processes of a run find each other."""
  flags.DEFINE_bool('distributed', False, 'find the other processes', flag_values=values)
  flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0', flag_values=values)
  flags.DEFINE_integer('num_processes', None, 'how many', flag_values=values)
  flags.DEFINE_integer('process_id', None, 'which one this is', flag_values=values)


def asks_help(argv: Sequence[str]) -> bool:
  """Then nothing is read: the flags are defined and listed."""
  return any(argument in HELP for argument in argv)


def help_if_asked(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Lists the flags with their defaults and ends the process, if that is asked for."""
  if not asks_help(argv):
    return
  for name in values:
    default, text = values[name].default, values[name].help.partition(';\n')[0]
    default = ','.join(default) if isinstance(default, list) else default
    option = f'--{name}' if default is None else f'--{name}={default}'
    print(f'  {option:40}  {text}'.rstrip())
  raise SystemExit(0)


def parse(values: flags.FlagValues, argv: list[str], required: Sequence[str] = ()) -> None:
  """Reads the flags into `values`; UserError for what is no flag, or a `required` one missing."""
  help_if_asked(values, argv)
  try:
    rest = values(['clr-jax', *argv])
  except (flags.Error, TypeError, ValueError) as error:
    raise UserError(str(error).partition('\n')[0]) from None
  if len(rest) > 1:
    raise UserError(f'what is {rest[1]!r}? options look like --workdir=DIR')
  for name in required:
    if getattr(values, name) is None:
      raise UserError(f'--{name} is missing')


def value_of(argv: Sequence[str], name: str) -> str | None:
  """VALUE of `--name=VALUE` or `--name VALUE`."""
  for i, argument in enumerate(argv):
    if argument.startswith(f'--{name}='):
      return argument.partition('=')[2]
    if argument == f'--{name}' and i + 1 < len(argv):
      return argv[i + 1]
  return None


def without(argv: Sequence[str], name: str) -> list[str]:
  """The arguments but for `--name=VALUE` and `--name VALUE`."""
  kept, skip = [], False
  for argument in argv:
    if not skip and not argument.startswith(f'--{name}=') and argument != f'--{name}':
      kept.append(argument)
    skip = argument == f'--{name}'
  return kept


def assigned(argv: Sequence[str], name: str) -> list[str]:
  """Dotted keys of `--name.KEY=VALUE`, `--name.KEY VALUE` and `--noname.KEY`, with one dash too."""
  found = (re.match(rf'--?(?:no)?{name}\.([^=]*)', argument) for argument in argv)
  return [match[1] for match in found if match]
