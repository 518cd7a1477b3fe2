"""The argparse parsers of all commands, with errors in one sentence."""

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
from clr_jax.cli.arguments import (
  add_config,
  add_imports,
  add_name,
  add_processes,
  add_workdirs,
  modules_of,
)
from clr_jax.cli.overrides import Given, Keys
from clr_jax.cli.study_arguments import add_reproduce, add_sweep
from clr_jax.cli.values import file, folder, from_one, from_zero, three_counts
from clr_jax.core.config_tree import leaves
from clr_jax.core.errors import UserError
from clr_jax.core.names import hint, listed
from clr_jax.evaluation import protocols
from clr_jax.experiment.config_files import packaged

HELP = ('-h', '--help')
_EPILOG = """\
Example: clr-jax train --config=quickstart --workdir=DIR. Packaged configs, used by name: {configs}.
clr-jax COMMAND --help lists the options of a command."""
_KEYS_EPILOGS = {
  ('config',): """\
--config.KEY=VALUE sets a key of the config; "%(prog)s --config=FILE --help" lists all keys.""",
  ('params', 'config'): """\
--params.KEY=VALUE sets an option of the protocol, --config.KEY=VALUE a key of the config;
"%(prog)s PROTOCOL --workdir=DIR --help" lists both.""",
  ('params',): """\
--params.KEY=VALUE sets an option of the figure; "%(prog)s FIGURE --help" lists them.""",
  ('config', 'params'): """\
--config.KEY=VALUE sets a key in all configs, --params.KEY=VALUE an option of the figure;
"%(prog)s --config=FILE --help" lists both.""",
}

Run = Callable[[argparse.Namespace, Mapping[str, Given]], None]
Configs = Callable[[argparse.Namespace], Mapping[str, Keys]]


class Parser(argparse.ArgumentParser):
  """Parser of a command, or of `clr-jax` itself; errors are UserErrors.

  Args:
    run: body of the command.
    overridable: names of the configs that `--NAME.KEY=VALUE` overrides.
    configs: returns the configs that the parsed arguments determine.
  """

  def __init__(
    self,
    *,
    run: Run = lambda args, given: None,
    overridable: Collection[str] = (),
    configs: Configs = lambda args: {},
    **options: Any,
  ):
    epilog = _KEYS_EPILOGS.get(tuple(overridable))
    super().__init__(**{'epilog': epilog, **options}, allow_abbrev=False, add_help=False)
    self.add_argument(*HELP, action=_Help, nargs=0, help='list all options')
    self.run, self.overridable, self.configs = run, overridable, configs

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{_in_our_words(message)} ({self.prog} --help lists all options)')

  def parse(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, Mapping[str, Given]]:
    """Parses arguments and overrides; prints the options and exits with --help.

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
    if any(argument in HELP for argument in rest):  # last, because it depends on the others
      rest = [*(argument for argument in rest if argument not in HELP), '--help']
    args, unexpected = self.parse_known_args(rest)
    if unexpected:
      self.error(f'unexpected argument {unexpected[0]!r}: options have the form --name=value')
    return args, given

  def _near_keys(self, option: str, arguments: Sequence[str]) -> str:
    """Returns 'did you mean --config.batch_size? ' for an option that is a key of the configs."""
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
    except UserError:  # errors of other arguments are reported later
      return ''
    return f'did you mean {" or ".join(keys[:3])}? ' if keys else ''


def _is_option(argument: str) -> bool:
  """True if an argument is an option; negative numbers are values."""
  return bool(re.match(r'-(?![\d.]*$)', argument))


def _in_our_words(message: str) -> str:
  """Rewrites a message of argparse as a problem with a remedy."""
  match = re.fullmatch(r'argument (\S+): (.*)', message, re.DOTALL)
  if match is None:
    names = message.removeprefix('the following arguments are required: ')
    names = re.sub(r'\{(.*?)\}', lambda found: f'one of {found[1].replace(",", ", ")}', names)
    return message if names == message else f'{names} must be given'
  option, reason = match.groups()
  if reason == 'expected one argument':
    return f'{option} needs a value: write {option}=VALUE'
  if other := re.fullmatch(r'not allowed with argument (\S+)', reason):
    return f'{option} and {other[1]} cannot be combined: give one of them'
  if value := re.fullmatch(r"ignored explicit argument '(.*)'", reason, re.DOTALL):
    return f'{option}={value[1]}: {option} takes no value, leave ={value[1]} out'
  if value := re.fullmatch(r"invalid choice: '(.*)' \(choose from (.*)\)", reason, re.DOTALL):
    return f'{option}={value[1]}: choose one of {value[2]}'
  return f'{option}{reason}'  # errors of our types have the form '=VALUE: give ...'


class _Help(argparse.Action):
  """Action that prints the options of a command and of the configs that arguments determine."""

  def __call__(self, parser, namespace, values, option_string=None):
    assert isinstance(parser, Parser)
    parser.print_help()
    columns = max(40, shutil.get_terminal_size().columns - 2)  # as argparse wraps the others
    for name, keys in parser.configs(namespace).items():
      lines = overrides.listing(keys, name, columns=columns)
      print(f'\n--{name}.KEY=VALUE, with the defaults:', *lines, sep='\n')
    parser.exit()


def make_parser() -> tuple[Parser, dict[str, Parser]]:
  """Makes the parser of `clr-jax`, and those of the commands by name."""
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
  add_sweep(add)
  add_reproduce(add)
  _add_evaluation(add)
  _add_pictures(add)
  _add_export(add)
  _add_bench(add)
  _add_plan(add)
  add_imports(add('methods', commands.methods, 'list the methods, one line each'))
  datasets = add('datasets', commands.datasets, 'list the data sets on this machine')
  datasets.add_argument(
    '--data_dir', type=folder, metavar='DIR', help='folder of the TFDS data sets'
  )
  add_imports(datasets)
  return parser, dict(group.choices)


def _add_training(add: Callable[..., Parser]) -> None:
  train = add(
    'train',
    commands.train,
    'pretrain and evaluate a run; run the same command to resume it',
    overridable=('config',),
    configs=commands.file_configs,
  )
  add_config(train)
  train.add_argument(
    '--workdir',
    type=folder,
    required=True,
    metavar='DIR',
    help='folder of the run: a new one, or that of a run to resume',
  )
  add_processes(train)


def _add_evaluation(add: Callable[..., Parser]) -> None:
  evaluate = add(
    'evaluate',
    commands.evaluate,
    "evaluate checkpoints by one protocol, on the run's own or on other labeled data",
    overridable=('params', 'config'),
    configs=commands.evaluate_configs,
  )
  add_name(evaluate, 'protocol', modules_of(protocols), others=True)
  add_imports(evaluate)
  add_workdirs(evaluate)
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
    '--overwrite', action='store_true', help='measure again instead of reusing existing results'
  )
  evaluate.add_argument(
    '--weights',
    type=file,
    metavar='FILE',
    help="backbone of another library to evaluate instead of the run's",
  )
  evaluate.add_argument(
    '--config', metavar='FILE', help='config file for --weights; then DIR need not be a run'
  )
  evaluate.add_argument(
    '--out', type=file, metavar='FILE.png', help='file of the figure, for protocols that draw one'
  )
  add_processes(evaluate)
  results = add('results', commands.results, 'print all results of a run, oldest first')
  results.add_argument(
    '--workdir', type=folder, required=True, metavar='DIR', help='folder of the run'
  )
  results.add_argument('--json', action='store_true', help='print one JSON object per line')


def _add_pictures(add: Callable[..., Parser]) -> None:
  inspect = add(
    'inspect',
    commands.inspect,
    'draw a figure of runs and write its numbers to CSV files',
    overridable=('params',),
    configs=commands.inspect_configs,
  )
  add_name(inspect, 'figure', figures.names())
  add_workdirs(inspect, required=False)
  inspect.add_argument(
    '--out', type=file, metavar='FILE.png', help='output file; default: FIGURE.png'
  )
  add_imports(inspect)
  inspect.add_argument(
    '--step',
    type=from_zero,
    metavar='N',
    help='checkpoint, for figures that load one; default: the newest',
  )
  report = add('report', commands.report, 'write an HTML report of one or several runs')
  add_workdirs(report)
  add_imports(report)
  report.add_argument(
    '--out',
    type=file,
    default='report.html',
    metavar='FILE.html',
    help='output file; default: report.html',
  )


def _add_export(add: Callable[..., Parser]) -> None:
  export = add(
    'export', commands.export, 'export the backbone of a run for torchvision, timm or Flax'
  )
  export.add_argument(
    '--workdir', type=folder, required=True, metavar='DIR', help='folder of the run'
  )
  add_imports(export)
  export.add_argument(
    '--format',
    default='torchvision',
    metavar='NAME',
    help='torchvision, timm or flax; default: torchvision',
  )
  export.add_argument(
    '--out', type=folder, metavar='DIR', help='output folder; default: WORKDIR/export/FORMAT'
  )
  export.add_argument('--head', action='store_true', help='export the projector, too')
  export.add_argument('--step', type=from_zero, metavar='N', help='checkpoint; default: the newest')


def _add_bench(add: Callable[..., Parser]) -> None:
  bench = add(
    'bench',
    commands.bench,
    'measure compile time, samples/s, parts of a step, memory and MFU',
    overridable=('config',),
    configs=commands.file_configs,
  )
  add_config(bench)
  for name, default, text in (('repeats', 5, 'timed repeats'), ('steps', 20, 'steps per repeat')):
    bench.add_argument(
      f'--{name}',
      type=from_one,
      metavar='N',
      help=f'{text}; default: {default}',
    )
  bench.add_argument('--json', action='store_true', help='print one JSON object')
  bench.add_argument('--peer', action='store_true', help='compare with the same step in PyTorch')
  bench.add_argument(
    '--input', action='store_true', help='measure reading images on the host instead'
  )
  bench.add_argument(
    '--peer_compile', default='off', metavar='MODE', help='torch.compile mode; default: off'
  )
  bench.add_argument(
    '--collectives',
    type=from_one,
    metavar='ROWS',
    help='count the bytes sent by 1 to 64 devices with ROWS images each',
  )
  add_processes(bench)


def _add_plan(add: Callable[..., Parser]) -> None:
  plan = add(
    'plan',
    commands.plan,
    'compile the step for absent hardware: memory, FLOPs, kernels, a lower bound of the time',
    overridable=('config',),
    configs=commands.file_configs,
  )
  add_config(plan)
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
  plan.add_argument(
    '--protocol',
    metavar='NAME',
    help='compile the evaluation by knn or linear, as in eval.protocols, instead of the step',
  )
  plan.add_argument(
    '--counts',
    type=three_counts,
    metavar='TRAIN,TEST,CLASSES',
    help='sizes for --protocol, such as 1281167,50000,1000; default: those of the data',
  )
