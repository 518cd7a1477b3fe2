"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any

from clr_jax.cli.values import address, folder, from_one, from_zero
from clr_jax.core.names import check_name
from clr_jax.core.registry import ModuleRegistry


def add_config(parser: argparse.ArgumentParser) -> None:
  """Adds --config and --imports."""
  parser.add_argument(
    '--config', required=True, metavar='FILE', help='config file; FILE:ARG passes it an argument'
  )
  add_imports(parser)


def add_imports(parser: argparse.ArgumentParser) -> None:
  """Adds --imports."""
  parser.add_argument(
    '--imports',
    action='append',
    default=[],
    metavar='FILE.py',
    help='your module that registers methods, augmentations, data or protocols; repeatable',
  )


def add_workdirs(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
  """Adds --workdir for one or several runs."""
  parser.add_argument(
    '--workdir',
    type=folder,
    action='append',
    required=required,
    metavar='DIR',
    help='folder of a run; repeatable',
  )


def add_processes(parser: argparse.ArgumentParser) -> None:
  """Adds the options of several processes."""
  group = parser.add_argument_group('multiple processes')
  group.add_argument(
    '--distributed', action='store_true', help='join processes of SLURM, Kubernetes or a TPU'
  )
  group.add_argument(
    '--coordinator', type=address, metavar='HOST:PORT', help='address of process 0'
  )
  group.add_argument('--num_processes', type=from_one, metavar='N', help='number of processes')
  group.add_argument('--process_id', type=from_zero, metavar='I', help='number of this process')


def add_name(
  parser: argparse.ArgumentParser, what: str, names: Collection[str], *, others: bool = False
) -> None:
  """Adds a positional argument: one of the names, with '-' or '_' between words.

  Args:
    others: True if there may be other names, which the command checks.
  """
  shown = [name.replace('_', '-') for name in names]

  def read(text: str) -> str:
    if not others:
      check_name(shown, text.replace('_', '-'), what)
    return text.replace('-', '_')

  parser.add_argument(what, type=read, metavar=f'{{{",".join(shown)}}}')


def modules_of(package: Any) -> list[str]:
  """Names of the modules of a package, without importing them."""
  return ModuleRegistry('module', package.__name__, package.__path__).names()
