"""The command line: clr-jax train | evaluate | results | inspect | report | bench | ..."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags

from clr_jax.cli import options as command_flags
from clr_jax.cli.exit import run_guarded, tell
from clr_jax.core.config_tree import Config, changed, to_dict, value_at
from clr_jax.core.errors import UserError
from clr_jax.experiment.config_files import packaged
from clr_jax.rundir.identity import read_config

USAGE = """\
clr-jax: contrastive and self-supervised visual representation learning in JAX

  clr-jax train --config=FILE[:ARG] --workdir=DIR [--config.KEY=VALUE ...]
      pretrain, evaluate; the same command resumes a run that was stopped
  clr-jax evaluate PROTOCOL --workdir=DIR [--workdir=DIR ...] [--features=trained,untrained,pixels]
      [--params.KEY=VALUE ...] [--config.eval.data=NAME] [--config.eval.train_split=SPLIT]
      linear, linear-augmented, knn, few-label, finetune, transfer or robustness, from a checkpoint
      (--step), on the run's own or on other labeled data; what was measured already is not
      measured again (--again does)
  clr-jax results --workdir=DIR [--json]
      everything that was measured in a run, oldest first
  clr-jax inspect FIGURE --workdir=DIR [--workdir=DIR ...] --out=FILE.png
      curves, compare (runs, seeds), scores, gradients (telemetry), embedding (with neighbours,
      views, classes), robustness, few-label: pictures, and CSV files of their numbers
  clr-jax report --workdir=DIR [--workdir=DIR ...] --out=report.html
      all of that, the configs and the features' embedding in one HTML file that opens from disk
  clr-jax bench --config=FILE[:ARG] [--peer] [--collectives=ROWS] [--json] [--config.KEY=VALUE ...]
      compile time, samples/s, parts of a step, memory, MFU; --peer: against the same step in
      PyTorch, --collectives: bytes that 1 to 64 devices with so many images each send
  clr-jax methods            the methods, one line each
  clr-jax datasets           the data sets at hand, one line each

COMMAND ... --help lists all options; with --config=FILE or --workdir=DIR also those of the config.
FILE is a path or the name of a packaged config: {configs}.
Several processes: add --distributed (TPU pods, SLURM, Kubernetes), or
--coordinator=HOST:PORT --num_processes=N --process_id=I."""


def main(argv: Sequence[str] | None = None) -> None:
  """Runs one command; ends the process with code 0, 2 for bad input, or the run's own code."""
  argv = list(sys.argv if argv is None else argv)
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it prints the stack of what it raises
  if len(argv) < 2 or argv[1] in (*command_flags.HELP, 'help'):
    print(USAGE.format(configs=', '.join(packaged())))
    raise SystemExit(0 if len(argv) > 1 else 2)
  try:
    command = _command(argv[1])
    if argv[2:] and argv[2] in command_flags.HELP:
      print(_usage(argv[1]))
      raise SystemExit(0)
    command(argv[2:])
  except (UserError, KeyboardInterrupt) as error:
    raise SystemExit(tell(error)) from None
  except BrokenPipeError:  # `clr-jax results | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0) from None


def _usage(name: str) -> str:
  """What USAGE says of a command."""
  found = re.search(rf'^  (clr-jax {name}\b.*?)(?=^  clr-jax |^$)', USAGE, re.S | re.M)
  return found[1].rstrip() if found else ''


def _command(name: str) -> Callable[[list[str]], None]:
  if name not in _COMMANDS:
    raise UserError(f'unknown command {name!r}: there are {", ".join(_COMMANDS)}')
  return _COMMANDS[name]


# ---------------------------------------------------------------- commands
def _train(argv: list[str]) -> None:
  values = flags.FlagValues()
  config = command_flags.define_config(values, argv)
  flags.DEFINE_string('workdir', None, 'folder of the run', flag_values=values)
  command_flags.define_distributed(values)
  command_flags.parse(values, argv, required=('workdir',))
  _start_jax(values, config)
  run_guarded(lambda train: train.train(config, values.workdir))


def _evaluate(argv: list[str]) -> None:
  from clr_jax.evaluation import registry as protocols
  from clr_jax.figures import plots
  from clr_jax.figures import registry as figures

  name = argv[0].replace('-', '_') if argv else ''
  if name not in protocols.names():
    known = ', '.join(protocols.names()).replace('_', '-')
    raise UserError(
      f'clr-jax evaluate knows {known}, not {argv[0]!r}'
      if argv
      else f'clr-jax evaluate needs a protocol: {known}'
    )
  argv = argv[1:]
  values = flags.FlagValues()
  flags.DEFINE_multi_string('workdir', None, 'folder of a run', flag_values=values)
  flags.DEFINE_integer('step', None, 'checkpoint; default: the newest', flag_values=values)
  flags.DEFINE_list('features', ['trained'], 'trained,untrained,pixels', flag_values=values)
  flags.DEFINE_bool('again', False, 'measure again what was measured', flag_values=values)
  flags.DEFINE_string('out', None, 'the picture, of protocols that draw one', flag_values=values)
  command_flags.define_distributed(values)
  params = protocols.parameters(name)
  command_flags.define_dict(values, 'params', params, argv)
  workdir_flag = command_flags.value_of(argv, 'workdir')
  if workdir_flag is None:
    command_flags.help_if_asked(values, argv)
    raise UserError('--workdir is missing: give the folder of a run')
  config = _stored_config(workdir_flag)
  command_flags.define_dict(values, 'config', config, argv)
  command_flags.parse(values, argv)
  if not any(values.features):
    raise UserError('--features is empty: give some of trained, untrained, pixels')
  figure = figures.FIGURES.get(name)  # a figure of what the protocol measured has its name
  if values.out is not None:
    if figure is None:
      raise UserError(f'--out names a picture and evaluate {name.replace("_", "-")} draws none')
    plots.check_out(values.out, '.png')
  _start_jax(values, config)
  given = command_flags.assigned(argv, 'params')
  options = {k: v for k, v in to_dict(params).items() if k in given}
  overrides = {key: value_at(config, key) for key in command_flags.assigned(argv, 'config')}
  stored = {d: changed(_stored_config(d), overrides) for d in values.workdir}

  def run(_):
    import jax

    from clr_jax.evaluation import runner as evaluation

    records = []
    for directory in values.workdir:
      found = evaluation.evaluate_workdir(
        stored[directory],
        directory,
        name,
        options,
        values.features,
        step=values.step,
        again=values.again,
      )
      several = {'run': directory} if len(values.workdir) > 1 else {}
      records += [{**several, **record} for record in found if record['protocol'] == name]
    if jax.process_index() == 0:
      print(protocols.table(name)(records), flush=True)
      if figure is not None:
        out = values.out or f'{values.workdir[0]}/figures/{name}.png'
        print(*(str(path) for path in figure(values.workdir, out)), sep='\n', flush=True)

  run_guarded(run)


def _results(argv: list[str]) -> None:
  from clr_jax.rundir import results, workdir
  from clr_jax.rundir.table import format_table

  values = flags.FlagValues()
  flags.DEFINE_string('workdir', None, 'folder of the run', flag_values=values)
  flags.DEFINE_bool('json', False, 'one JSON object a line', flag_values=values)
  command_flags.parse(values, argv, required=('workdir',))
  run = workdir.Workdir(values.workdir)
  read_config(run)  # says so if this is not a run
  records = results.read_results(run)
  if values.json:
    for record in records:
      print(json.dumps(record))
  else:
    print(format_table(records) if records else 'no results yet')


def _inspect(argv: list[str]) -> None:
  from clr_jax.figures import plots
  from clr_jax.figures import registry as figures

  if not argv or argv[0].replace('-', '_') not in figures.FIGURES:
    known = ', '.join(figures.FIGURES).replace('_', '-')
    raise UserError(
      f'clr-jax inspect draws {known}, not {argv[0]!r}'
      if argv
      else f'clr-jax inspect needs the name of a picture: {known}'
    )
  name = argv[0].replace('-', '_')
  argv = argv[1:]
  values = flags.FlagValues()
  flags.DEFINE_multi_string('workdir', None, 'folder of a run', flag_values=values)
  flags.DEFINE_string('out', f'{name}.png', 'the picture', flag_values=values)
  params = figures.parameters(name)
  if takes_step := 'step' in params:
    del params['step']
    flags.DEFINE_integer('step', None, 'checkpoint; default: the newest', flag_values=values)
  command_flags.define_dict(values, 'params', params, argv)
  command_flags.parse(values, argv, required=('workdir',))
  plots.check_out(values.out, '.png')
  options = to_dict(params) | ({'step': values.step} if takes_step else {})
  run_guarded(
    lambda _: print(*figures.FIGURES[name](values.workdir, values.out, **options), sep='\n')
  )


def _report(argv: list[str]) -> None:
  from clr_jax import report
  from clr_jax.figures import plots

  values = flags.FlagValues()
  flags.DEFINE_multi_string('workdir', None, 'folder of a run', flag_values=values)
  flags.DEFINE_string('out', 'report.html', 'the page', flag_values=values)
  command_flags.parse(values, argv, required=('workdir',))
  plots.check_out(values.out, '.html')
  run_guarded(lambda _: print(*report.report(values.workdir, values.out), sep='\n'))


def _methods(argv: list[str]) -> None:
  from clr_jax import methods

  command_flags.parse(flags.FlagValues(), argv)
  width = max(map(len, methods.names()))
  for name in methods.names():
    print(f'{name:{width}}  {methods.summary(name)}')


def _datasets(argv: list[str]) -> None:
  from clr_jax import data

  values = flags.FlagValues()
  flags.DEFINE_string('data_dir', None, 'where TFDS data sets are', flag_values=values)
  command_flags.parse(values, argv)
  rows = data.available(values.data_dir)
  width = max(len(name) for name, _ in rows)
  for name, line in rows:
    print(f'{name:{width}}  {line}')


def _bench(argv: list[str]) -> None:
  from clr_jax.bench import command as bench_modes

  values = flags.FlagValues()
  config = command_flags.define_config(values, argv)
  bench_modes.define(values)
  command_flags.define_distributed(values)
  command_flags.parse(values, argv)
  bench_modes.prepare(values, config)
  _start_jax(values, config)

  def run(_):
    import jax

    report, text = bench_modes.run(values, config)
    if jax.process_index() == 0:
      print(json.dumps(report) if values.json else text(report))

  run_guarded(run)


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
  'train': _train,
  'evaluate': _evaluate,
  'results': _results,
  'inspect': _inspect,
  'report': _report,
  'bench': _bench,
  'methods': _methods,
  'datasets': _datasets,
}


# ---------------------------------------------------------------- process
def _start_jax(values: flags.FlagValues, config: Config) -> None:
  """What must be set before JAX's first call."""
  xla_flags = os.environ.get('XLA_FLAGS', '')
  if config.deterministic and 'xla_gpu_deterministic_ops' not in xla_flags:
    os.environ['XLA_FLAGS'] = f'{xla_flags} --xla_gpu_deterministic_ops=true'.strip()
  import jax

  explicit = (values.coordinator, values.num_processes, values.process_id)
  if not values.distributed and explicit == (None, None, None):
    return
  if not values.distributed and None in explicit:
    raise UserError(
      '--coordinator, --num_processes and --process_id belong together: give all three, or '
      '--distributed where the cluster tells'
    )
  try:
    jax.distributed.initialize(*explicit)
  except Exception as error:  # a cluster's own client raises its own types
    reason = ' '.join(re.split(r'\n\s*\n|```', str(error))[0].split())
    asks_api = 'KUBERNETES_SERVICE_HOST' in os.environ
    package = 'install the package kubernetes for --distributed, or ' if asks_api else ''
    raise UserError(
      f'the processes did not find each other ({reason}): {package}give --coordinator, '
      f'--num_processes and --process_id'
    ) from None


def _stored_config(directory: str) -> Config:
  from clr_jax.rundir import workdir

  return read_config(workdir.Workdir(directory))
