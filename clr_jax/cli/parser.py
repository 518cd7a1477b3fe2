"""The options of every command: one argparse parser for each, whose errors are one sentence."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

import clr_jax
from clr_jax import figures
from clr_jax.cli import commands, overrides
from clr_jax.cli.overrides import Given, Keys
from clr_jax.cli.values import address, file, folder, from_one, from_zero
from clr_jax.core.config_tree import leaves
from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name, hint, listed
from clr_jax.core.registry import ModuleRegistry
from clr_jax.evaluation import protocols
from clr_jax.experiment.config_files import packaged

HELP = ('-h', '--help')
_EPILOG = """\
clr-jax COMMAND --help lists the options of a command; given a config (--config=FILE) or a run
(--workdir=DIR), also the keys of its config, and given PROTOCOL or FIGURE its --params. FILE is a
path or the name of a packaged config: {configs}."""
_KEYS_EPILOG = """\
{flags} set single keys; --help lists them if the other arguments name a config, a run, a protocol
or a figure."""

Run = Callable[[argparse.Namespace, Mapping[str, Given]], None]
Configs = Callable[[argparse.Namespace], Mapping[str, Keys]]


class Parser(argparse.ArgumentParser):
  """The parser of one command, or of `clr-jax` itself; errors are UserErrors.

  Args:
    run: body of the command.
    overridable: names of the configs that `--NAME.KEY=VALUE` overrides.
    configs: those of them that the parsed arguments determine.
  """

  def __init__(
    self,
    *,
    run: Run = lambda args, given: None,
    overridable: Collection[str] = (),
    configs: Configs = lambda args: {},
    **options: Any,
  ):
    flags = ' and '.join(f'--{name}.KEY=VALUE' for name in overridable)
    epilog = _KEYS_EPILOG.format(flags=flags) if flags else None
    super().__init__(**{'epilog': epilog, **options}, allow_abbrev=False, add_help=False)
    self.add_argument(*HELP, action=_Help, nargs=0, help='list all options')
    self.run, self.overridable, self.configs = run, overridable, configs

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{_in_our_words(message)} ({self.prog} --help lists all options)')

  def parse(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, Mapping[str, Given]]:
    """The parsed arguments and the overrides; lists the options and exits if that is asked for.

    Raises:
      UserError: an unknown option, a missing or an invalid argument.
    """
    try:
      os.getcwd()
    except FileNotFoundError:
      raise UserError('the current folder was deleted: change to one that exists') from None
    rest, given = overrides.split(arguments, self.overridable)
    options = re.findall(r'--\w+', self.format_usage())
    for option in (argument.partition('=')[0] for argument in rest if _is_option(argument)):
      if option not in (*options, *HELP):
        wanted = f'--{option.lstrip("-")}'
        near = hint(wanted.partition('.')[0], options) or self._near_keys(wanted, rest)
        self.error(f'unknown option {option}: {near}'.rstrip(':; '))
    if any(argument in HELP for argument in rest):  # last: it depends on the others
      rest = [*(argument for argument in rest if argument not in HELP), '--help']
    args, unexpected = self.parse_known_args(rest)
    if unexpected:
      self.error(f'unexpected argument {unexpected[0]!r}: options have the form --name=value')
    return args, given

  def _near_keys(self, option: str, arguments: Sequence[str]) -> str:
    """'did you mean --config.batch_size? ' for an option that the configs have as a key."""
    wanted = option.removeprefix('--')
    try:
      args, _ = self.parse_known_args([a for a in arguments if a not in HELP])
      keys = [
        f'--{name}.{key}'
        for name, known in self.configs(args).items()
        for key, _ in leaves(known.config)
        if f'.{key}'.endswith(f'.{wanted}')
      ]
      keys.sort(key=lambda key: key.count('.'))
    except UserError:  # what is wrong with the others is said when this one is right
      return ''
    return f'did you mean {" or ".join(keys[:3])}? ' if keys else ''


def _is_option(argument: str) -> bool:
  """Whether it starts as an option does; negative numbers are values."""
  return bool(re.match(r'-(?![\d.]*$)', argument))


def _in_our_words(message: str) -> str:
  """A message of argparse as what is wrong and what to write instead."""
  match = re.fullmatch(r'argument (\S+): (.*)', message, re.DOTALL)
  if match is None:
    names = message.removeprefix('the following arguments are required: ')
    names = re.sub(r'\{(.*?)\}', lambda found: f'one of {found[1].replace(",", ", ")}', names)
    return message if names == message else f'{names} must be given'
  option, reason = match.groups()
  if reason == 'expected one argument':
    return f'{option} needs a value: write {option}=VALUE'
  if value := re.fullmatch(r"ignored explicit argument '(.*)'", reason, re.DOTALL):
    return f'{option}={value[1]}: {option} takes no value, leave ={value[1]} out'
  return f'{option}{reason}'  # of a type below: '=VALUE: give ...'


class _Help(argparse.Action):
  """Prints the options of a command, and those of the configs that the arguments determine."""

  def __call__(self, parser, namespace, values, option_string=None):
    assert isinstance(parser, Parser)
    parser.print_help()
    columns = max(40, shutil.get_terminal_size().columns - 2)  # as argparse wraps the others
    for name, keys in parser.configs(namespace).items():
      lines = overrides.listing(keys, name, columns=columns)
      print(f'\n--{name}.KEY=VALUE, with the values used otherwise:', *lines, sep='\n')
    parser.exit()


def make_parser() -> tuple[Parser, dict[str, Parser]]:
  """The parser of `clr-jax` itself, and those of the commands by name."""
  parser = Parser(
    prog='clr-jax',
    description='Contrastive and self-supervised visual representation learning in JAX.',
    epilog=_EPILOG.format(configs=listed(packaged())),
  )
  parser.add_argument('--version', action='version', version=f'clr-jax {clr_jax.__version__}')
  group = parser.add_subparsers(title='commands', metavar='COMMAND', parser_class=Parser)

  def add(name: str, run: Run, text: str, **options: Any) -> Parser:
    return group.add_parser(name, run=run, help=text, description=text, **options)

  _add_training(add)
  _add_evaluation(add)
  _add_pictures(add)
  _add_export(add)
  _add_bench(add)
  _add_plan(add)
  _add_imports(add('methods', commands.methods, 'list the methods, one line each'))
  datasets = add('datasets', commands.datasets, 'list the data sets on this machine')
  datasets.add_argument(
    '--data_dir', type=folder, metavar='DIR', help='folder of the TFDS data sets'
  )
  _add_imports(datasets)
  return parser, dict(group.choices)


def _add_training(add: Callable[..., Parser]) -> None:
  train = add(
    'train',
    commands.train,
    'pretrain and evaluate; the same command resumes a run that was stopped',
    overridable=('config',),
    configs=commands.file_configs,
  )
  _add_config(train)
  train.add_argument(
    '--workdir', type=folder, required=True, metavar='DIR', help='folder of the run'
  )
  _add_processes(train)


def _add_evaluation(add: Callable[..., Parser]) -> None:
  evaluate = add(
    'evaluate',
    commands.evaluate,
    "measure checkpoints by one protocol, on the run's own or on other labeled data",
    overridable=('params', 'config'),
    configs=commands.evaluate_configs,
  )
  _add_name(evaluate, 'protocol', _modules_of(protocols), others=True)
  _add_imports(evaluate)
  _add_workdirs(evaluate)
  evaluate.add_argument(
    '--step', type=from_zero, metavar='N', help='checkpoint; default: the newest'
  )
  evaluate.add_argument(
    '--features',
    type=lambda text: text.split(','),
    default=['trained'],
    metavar='NAMES',
    help='some of trained,untrained,pixels; default: trained',
  )
  evaluate.add_argument(
    '--overwrite', action='store_true', help='measure again instead of reusing results'
  )
  evaluate.add_argument(
    '--weights',
    type=file,
    metavar='FILE',
    help="backbone of another library, in place of the run's",
  )
  evaluate.add_argument(
    '--config', metavar='FILE', help='config file, with --weights: DIR need not be a run then'
  )
  evaluate.add_argument(
    '--out', type=file, metavar='FILE.png', help='the picture, of protocols that draw one'
  )
  _add_processes(evaluate)
  results = add('results', commands.results, 'print all measurements of a run, oldest first')
  results.add_argument(
    '--workdir', type=folder, required=True, metavar='DIR', help='folder of the run'
  )
  results.add_argument('--json', action='store_true', help='print one JSON object a line')


def _add_pictures(add: Callable[..., Parser]) -> None:
  inspect = add(
    'inspect',
    commands.inspect,
    'draw a figure of runs, with CSV files of its numbers',
    overridable=('params',),
    configs=commands.inspect_configs,
  )
  _add_name(inspect, 'figure', figures.names())
  _add_workdirs(inspect)
  inspect.add_argument(
    '--out', type=file, metavar='FILE.png', help='the picture; default: FIGURE.png'
  )
  _add_imports(inspect)
  inspect.add_argument(
    '--step',
    type=from_zero,
    metavar='N',
    help='checkpoint, of figures that load one; default: the newest',
  )
  report = add('report', commands.report, 'write all that is known of runs into one HTML file')
  _add_workdirs(report)
  _add_imports(report)
  report.add_argument(
    '--out',
    type=file,
    default='report.html',
    metavar='FILE.html',
    help='the page; default: report.html',
  )


def _add_export(add: Callable[..., Parser]) -> None:
  export = add(
    'export', commands.export, 'write the backbone of a run for torchvision, timm or Flax'
  )
  export.add_argument(
    '--workdir', type=folder, required=True, metavar='DIR', help='folder of the run'
  )
  _add_imports(export)
  export.add_argument(
    '--format',
    default='torchvision',
    metavar='NAME',
    help='torchvision, timm or flax; default: torchvision',
  )
  export.add_argument(
    '--out', type=folder, metavar='DIR', help="the folder; default: export/FORMAT in the run's"
  )
  export.add_argument('--head', action='store_true', help='write the projector, too')
  export.add_argument('--step', type=from_zero, metavar='N', help='checkpoint; default: the newest')


def _add_bench(add: Callable[..., Parser]) -> None:
  bench = add(
    'bench',
    commands.bench,
    'measure compile time, samples/s, parts of a step, memory and MFU',
    overridable=('config',),
    configs=commands.file_configs,
  )
  _add_config(bench)
  for name, default, text in (('repeats', 5, 'timed repeats'), ('steps', 20, 'steps of a repeat')):
    bench.add_argument(
      f'--{name}',
      type=from_one,
      default=default,
      metavar='N',
      help=f'{text}; default: {default}',
    )
  bench.add_argument('--json', action='store_true', help='print one JSON object')
  bench.add_argument('--peer', action='store_true', help='compare with the same step in PyTorch')
  bench.add_argument(
    '--peer_compile', default='off', metavar='MODE', help='mode of torch.compile; default: off'
  )
  bench.add_argument(
    '--collectives',
    type=from_one,
    metavar='ROWS',
    help='count the bytes that 1 to 64 devices with so many images each send',
  )
  _add_processes(bench)


def _add_plan(add: Callable[..., Parser]) -> None:
  plan = add(
    'plan',
    commands.plan,
    'compile the step for hardware that is not here: memory, work, kernels, a bound of its time',
    overridable=('config',),
    configs=commands.file_configs,
  )
  _add_config(plan)
  plan.add_argument(
    '--target',
    required=True,
    metavar='KIND:SHAPE',
    help='h200:8, h100:8 or a100:8 (GPUs), v5e:4x4, v5p:2x2x1 or v6e:4x4 (TPU chips), cpu:8',
  )
  plan.add_argument('--json', action='store_true', help='print one JSON object')
  plan.add_argument(
    '--max_batch', action='store_true', help='find the largest batch_size that fits (minutes)'
  )


def _add_config(parser: Parser) -> None:
  parser.add_argument(
    '--config', required=True, metavar='FILE', help='config file; FILE:ARG passes it an argument'
  )
  _add_imports(parser)


def _add_imports(parser: Parser) -> None:
  parser.add_argument(
    '--imports',
    action='append',
    default=[],
    metavar='FILE.py',
    help='module of yours that registers methods, augmentations, data or protocols; repeatable',
  )


def _add_workdirs(parser: Parser) -> None:
  parser.add_argument(
    '--workdir',
    type=folder,
    action='append',
    required=True,
    metavar='DIR',
    help='folder of a run; repeatable',
  )


def _add_processes(parser: Parser) -> None:
  group = parser.add_argument_group('several processes')
  group.add_argument(
    '--distributed', action='store_true', help='join those that SLURM, Kubernetes or a TPU started'
  )
  group.add_argument(
    '--coordinator', type=address, metavar='HOST:PORT', help='address of process 0'
  )
  group.add_argument('--num_processes', type=from_one, metavar='N', help='number of processes')
  group.add_argument('--process_id', type=from_zero, metavar='I', help='number of this process')


def _add_name(parser: Parser, what: str, names: Collection[str], *, others: bool = False) -> None:
  """A positional argument: one of the names, with '-' or '_' between words.

  Args:
    others: the command knows more of them, and checks the name.
  """
  shown = [name.replace('_', '-') for name in names]

  def read(text: str) -> str:
    if not others:
      check_name(shown, text.replace('_', '-'), what)
    return text.replace('-', '_')

  parser.add_argument(what, type=read, metavar=f'{{{",".join(shown)}}}')


def _modules_of(package: Any) -> list[str]:
  return ModuleRegistry('module', package.__name__, package.__path__).names()
