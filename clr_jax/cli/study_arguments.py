"""Arguments of `clr-jax sweep` and `clr-jax reproduce`, which train several runs."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable

from clr_jax.cli import commands
from clr_jax.cli.arguments import add_imports
from clr_jax.cli.values import axis, folder, from_one


def add_sweep(add: Callable[..., ArgumentParser]) -> None:
  """Adds the command `sweep`."""
  sweep = add(
    'sweep',
    commands.sweep,
    'train all runs of a grid of configs and seeds; run the same command to resume them',
    overridable=('config', 'params'),
    configs=commands.sweep_configs,
  )
  sweep.add_argument(
    '--config',
    action='append',
    required=True,
    metavar='FILE',
    help='config file; FILE:ARG passes it an argument; repeatable',
  )
  add_imports(sweep)
  sweep.add_argument(
    '--grid',
    type=axis,
    action='append',
    default=[],
    metavar='config.KEY=VALUES',
    help='values of a key, separated by commas; repeatable for all combinations; keys that change '
    'together: config.A+config.B=A1+B1,A2+B2',
  )
  _add_jobs(sweep)
  sweep.add_argument(
    '--workdir', type=folder, required=True, metavar='DIR', help='folder of all runs'
  )
  only = sweep.add_mutually_exclusive_group()
  only.add_argument(
    '--list', action='store_true', help='train nothing; print a command for each run'
  )
  only.add_argument(
    '--summary', action='store_true', help='train nothing; draw the existing results'
  )


def add_reproduce(add: Callable[..., ArgumentParser]) -> None:
  """Adds the command `reproduce`."""
  reproduce = add(
    'reproduce',
    commands.reproduce,
    'list the accuracy tables of the papers, train the rows of one, or compare published numbers '
    'with ours',
  )
  reproduce.add_argument(
    'table', nargs='?', metavar='TABLE', help='name of a table; default: list all'
  )
  for name, text in (('rows', 'some rows of the table'), ('data', 'some of its data sets')):
    reproduce.add_argument(
      f'--{name}',
      type=lambda text: text.split(','),
      default=[],
      metavar='NAMES',
      help=f'{text}, separated by commas; default: all',
    )
  reproduce.add_argument(
    '--scale',
    choices=('full', 'small'),
    default='full',
    help='the published setting, or a small version for a CPU; default: full',
  )
  _add_jobs(reproduce)
  reproduce.set_defaults(seeds=None)  # --check has another default
  reproduce.add_argument(
    '--workdir',
    type=folder,
    metavar='DIR',
    help='folder in which to train the rows; default: train nothing, compare the ledger',
  )
  only = reproduce.add_mutually_exclusive_group()
  only.add_argument(
    '--list', action='store_true', help='train nothing; print a command for each run'
  )
  only.add_argument(
    '--check',
    action='store_true',
    help='train the runs of the ledger again, in a new DIR; exit code 1 if they differ; --seeds=N: '
    'only those of the first N seeds',
  )
  only.add_argument(
    '--plan',
    metavar='TARGET',
    help='print steps, memory and time of each row, compiled for a target of clr-jax plan '
    '(h200:1, v5e:2x2, ...), and its command; with --workdir keep those of --scale=full in its '
    'ledger.jsonl',
  )
  only.add_argument(
    '--add',
    metavar='FILE',
    help="add the runs and plans of FILE, the ledger.jsonl of a --workdir, to the library's",
  )
  only.add_argument(
    '--pages',
    type=lambda text: text.split(','),
    metavar='FILES',
    help="renew the tables of Markdown files from the library's ledger",
  )


def _add_jobs(parser: ArgumentParser) -> None:
  """Adds the options of commands that train several runs."""
  for name, text in (
    ('seeds', 'runs of each point, with consecutive seeds; default: 1'),
    ('jobs', 'runs at once; default: one for each GPU, on CPUs one for every 4 cores'),
    ('devices_per_run', 'GPUs of each run; default: 1'),
  ):
    default = 1 if name == 'seeds' else None
    parser.add_argument(f'--{name}', type=from_one, default=default, metavar='N', help=text)
