"""The bodies of the commands, which import JAX late so that `--help` is quick.

A body takes the parsed arguments and the overrides of configs (see `clr_jax.cli.overrides`). The
function `*_configs` beside it returns the configs that may be overridden, by the name before the
dot, as far as the arguments determine them.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clr_jax import figures
from clr_jax.cli import overrides
from clr_jax.cli.overrides import Given, Keys
from clr_jax.core import user_code
from clr_jax.core.activity import activity
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError, about
from clr_jax.core.names import check_name
from clr_jax.core.storage import check_path, is_local
from clr_jax.experiment.config_files import load


# ---------------------------------------------------------------- train
def train(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Trains and evaluates a run, or resumes it."""
  from clr_jax.cli.configs import load_config
  from clr_jax.cli.process import run_with_exit_code, start_jax
  from clr_jax.ops.sharding import check_devices
  from clr_jax.training import loop

  config, notes = load_config(args.config, args.imports, given['config'])
  start_jax(args, deterministic=config.deterministic)
  check_devices()
  run_with_exit_code(lambda: loop.train(config, args.workdir, notes=notes))


def file_configs(args: argparse.Namespace) -> dict[str, Keys]:
  """The config of --config=FILE."""
  if not args.config:
    return {}
  from clr_jax.cli.configs import keys_of

  user_code.load(args.imports, chosen=True)
  return {'config': keys_of(load(args.config))}


# ---------------------------------------------------------------- sweep
def sweep(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Trains all runs of a grid, or resumes them, and draws their results."""
  from clr_jax.cli.sweep import command

  command.run(args, given['config'], _figure_options('sweep', given['params']))


def sweep_configs(args: argparse.Namespace) -> dict[str, Keys]:
  """The config of the first --config=FILE, and the options of the figure."""
  if not args.config:
    return {}
  first = argparse.Namespace(config=args.config[0], imports=args.imports)
  return {**file_configs(first), 'params': _figure_keys('sweep')}


# ---------------------------------------------------------------- reproduce
def reproduce(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Lists the tables of the papers, trains or compares one, or writes ledger and pages."""
  from clr_jax.cli import reproduce as tables

  tables.refuse_without_effect(args)
  if args.add is not None or args.pages is not None:
    if args.table is not None:
      raise UserError(f'--add and --pages are about all tables: leave {args.table} out')
    if args.add is not None:
      tables.add_runs(args.add)
    else:
      tables.write_pages(args.pages)
  elif args.table is None:
    tables.list_tables()
  else:
    tables.run(args)


# ---------------------------------------------------------------- evaluate
def evaluate(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Evaluates checkpoints by one protocol and draws its figure."""
  from clr_jax.cli.configs import load_config, stored_config
  from clr_jax.cli.process import run_with_exit_code, start_jax
  from clr_jax.evaluation import registry as protocols
  from clr_jax.ops.sharding import check_devices
  from clr_jax.rundir.config_records import load_code
  from clr_jax.rundir.workdir import Workdir

  user_code.load(args.imports, chosen=True)
  for directory in args.workdir:
    load_code(Workdir(directory))
  options = overrides.values_of(protocols.parameters(args.protocol), given['params'], 'params')
  protocols.units(args.protocol, options, prefix='--params.')
  if args.config and not args.weights:
    raise UserError('--config has no effect without --weights: leave it out')
  notes: list[str] = []
  if args.config:
    config, notes = load_config(args.config, args.imports, given['config'])
    configs = {directory: config for directory in args.workdir}
  else:
    own = given['config']
    configs = {d: overrides.apply(stored_config(d), own, 'config') for d in args.workdir}
  if not any(args.features):
    raise UserError('--features is empty: give some of trained, untrained, pixels')
  drawn = args.protocol in figures.names()  # a protocol's figure has the protocol's name
  if args.out is not None:
    if not drawn:
      raise UserError(
        f'--out has no effect: evaluate {args.protocol} draws no figure; leave it out'
      )
    figures.check_out(args.out, '.png')
  start_jax(args, deterministic=any(config.deterministic for config in configs.values()))
  check_devices()
  run_with_exit_code(lambda: _measure(args, configs, options, drawn, notes))


def _measure(
  args: argparse.Namespace,
  configs: Mapping[str, Config],
  options: Mapping[str, Any],
  drawn: bool,
  notes: Sequence[str],
) -> None:
  import jax

  from clr_jax.cli.configs import say
  from clr_jax.evaluation import registry as protocols
  from clr_jax.evaluation import runner
  from clr_jax.figures.drawing.draw import draw_figure
  from clr_jax.rundir.results import why_not_kept
  from clr_jax.rundir.workdir import Workdir

  records = []
  for directory, config in configs.items():
    found = runner.evaluate_workdir(
      *(config, directory, args.protocol, options, args.features),
      step=args.step,
      overwrite=args.overwrite,
      prefix='--params.',
      file=args.weights or '',
    )
    several = {'run': directory} if len(configs) > 1 else {}
    records += [{**several, **record} for record in found if record['protocol'] == args.protocol]
  if jax.process_index() == 0:
    say(notes)
    print(protocols.table(args.protocol)(records), flush=True)
    unkept = [d for d in configs if why_not_kept(Workdir(d))]
    if drawn and unkept:
      print(f'no figure: it needs stored results, but {unkept[0]} is not writable', flush=True)
    elif drawn:
      out = args.out or f'{args.workdir[0]}/figures/{args.protocol}.png'
      print(*draw_figure(args.protocol, args.workdir, out), sep='\n', flush=True)


def evaluate_configs(args: argparse.Namespace) -> dict[str, Keys]:
  """Options of the protocol, and the config of the first run."""
  configs = {}
  user_code.load(args.imports, chosen=True)
  if args.config:
    configs = file_configs(args)
  elif args.workdir:
    from clr_jax.cli.configs import keys_of, stored_config

    configs['config'] = keys_of(stored_config(args.workdir[0]))
  if args.protocol:
    from clr_jax.evaluation import registry as protocols

    options = Keys(protocols.parameters(args.protocol), protocols.option_texts(args.protocol))
    configs = {'params': options, **configs}
  return configs


# ---------------------------------------------------------------- results, inspect, report
def results(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Prints all records of a run."""
  from clr_jax.rundir.config_records import refuse_no_run
  from clr_jax.rundir.results import find_results, read_results
  from clr_jax.rundir.table import format_table
  from clr_jax.rundir.workdir import Workdir

  run = Workdir(args.workdir)
  refuse_no_run(run)
  found = find_results(run)
  if found.damaged and not found.records:
    raise UserError(
      f'all {len(found.damaged)} results in {run.results} are damaged: run clr-jax evaluate again'
    )
  records = read_results(run)
  if args.json:
    for record in records:
      print(json.dumps(record))
  else:
    print(format_table(records) if records else 'no results yet')


def inspect(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Draws one figure of runs."""
  if not args.workdir and args.figure not in figures.WITHOUT_RUNS:
    raise UserError(f'--workdir must be given: inspect {args.figure} draws runs')
  from clr_jax.cli.process import run_with_exit_code
  from clr_jax.figures.drawing.draw import draw_figure
  from clr_jax.ops.sharding import check_devices

  user_code.load(args.imports, chosen=True)
  options = _figure_options(args.figure, given['params'])
  if args.step is not None:
    if 'step' not in figures.parameters(args.figure):
      raise UserError(f'--step has no effect on inspect {args.figure}: leave it out')
    options['step'] = args.step
  out = args.out or f'{args.figure}.png'
  figures.check_out(out, '.png')
  check_devices()
  run_with_exit_code(
    lambda: print(*draw_figure(args.figure, args.workdir or [], out, **options), sep='\n')
  )


def _figure_options(name: str, given: Given) -> dict[str, Any]:
  """Checked options of a figure, as far as they are given."""
  from clr_jax.core.options import check

  options = overrides.values_of(_figure_keys(name).config, given, 'params')
  check(figures.FIGURES.factory(name), options, what=name, prefix='--params.')
  return options


def inspect_configs(args: argparse.Namespace) -> dict[str, Keys]:
  """Options of the figure."""
  return {'params': _figure_keys(args.figure)} if args.figure else {}


def _figure_keys(name: str) -> Keys:
  """Options of a figure, without `step`, which is a separate flag."""
  params = figures.parameters(name)
  if 'step' in params:
    del params['step']
  return Keys(params, figures.option_texts(name))


def report(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Writes an HTML report of runs."""
  from clr_jax import report as report_lib
  from clr_jax.cli.process import run_with_exit_code
  from clr_jax.ops.sharding import check_devices

  user_code.load(args.imports, chosen=True)
  figures.check_out(args.out, '.html')
  check_devices()
  run_with_exit_code(lambda: print(*report_lib.report(args.workdir, args.out), sep='\n'))


# ---------------------------------------------------------------- export
def export(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Writes the backbone of a run for other libraries."""
  from clr_jax.cli.process import run_with_exit_code
  from clr_jax.exchange.export import export as write

  user_code.load(args.imports, chosen=True)
  options = {'format': args.format, 'head': args.head, 'step': args.step}
  run_with_exit_code(lambda: print(*write(args.workdir, args.out, **options), sep='\n'))


# ---------------------------------------------------------------- bench
def bench(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Measures the training step of a config."""
  from clr_jax.cli.configs import load_config, say
  from clr_jax.cli.process import run_with_exit_code, start_jax
  from clr_jax.ops.sharding import check_devices

  config, notes = load_config(args.config, args.imports, given['config'])
  measure, text = _bench_mode(args, config)
  start_jax(args, deterministic=config.deterministic)
  check_devices()

  def run() -> None:
    import jax

    with activity('measuring', enabled=jax.process_index() == 0, at_once=False):
      found = measure()
    if jax.process_index() == 0:
      say(notes)
      print(json.dumps(found) if args.json else text(found))

  run_with_exit_code(run)


def _bench_mode(
  args: argparse.Namespace, config: Config
) -> tuple[Callable[[], dict[str, Any]], Callable[..., str]]:
  """Returns (the measurement, the function that formats its result) for the flags."""
  import jax

  from clr_jax.bench import communication, step, torch_reference

  check_name(torch_reference.COMPILE, args.peer_compile, 'value of --peer_compile')
  if args.peer_compile != 'off' and not args.peer:
    raise UserError(f'--peer_compile={args.peer_compile} has no effect without --peer: add it')
  timing = {k: n for k in ('repeats', 'steps') if (n := getattr(args, k)) is not None}
  if args.input:
    return _bench_input(args, config, timing)
  if args.collectives is not None:
    if args.peer:
      raise UserError('--peer and --collectives cannot be combined: give one of them')
    if timing:
      raise UserError(f'--{next(iter(timing))} has no effect with --collectives: leave it out')
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', max(communication.DEVICES))

    def count() -> dict[str, Any]:
      with about(**{'--collectives': args.collectives}):
        return communication.measure(config, per_device=args.collectives)

    return count, communication.format_table
  if not args.peer:
    return functools.partial(step.measure, config, **timing), step.format_report
  torch_reference.check(config)
  # By default JAX reserves three quarters of the GPU's memory, which PyTorch needs, too.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  from clr_jax.bench.torch_reference import compare  # imports PyTorch, which is installed

  measure = functools.partial(compare.compare, config, **timing, compile_mode=args.peer_compile)
  return measure, compare.format_report


def _bench_input(
  args: argparse.Namespace, config: Config, timing: Mapping[str, int]
) -> tuple[Callable[[], dict[str, Any]], Callable[..., str]]:
  """As `_bench_mode`, for reading images."""
  from clr_jax.bench import input as input_lib

  for flag, given in {'peer': args.peer, 'collectives': args.collectives is not None}.items():
    if given:
      raise UserError(f'--input and --{flag} cannot be combined: give one of them')
  return functools.partial(input_lib.measure, config, **timing), input_lib.format_report


def plan(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Compiles the training step, or a protocol, of a config for hardware that may be absent."""
  from clr_jax.bench.plan import evaluation, report, targets
  from clr_jax.cli.configs import load_config, say
  from clr_jax.cli.process import run_with_exit_code, set_deterministic

  if args.protocol is None and args.counts is not None:
    raise UserError('--counts has no effect without --protocol: add it, or leave --counts out')
  if args.protocol is not None and args.max_batch:
    raise UserError('--max_batch and --protocol cannot be combined: give one of them')
  target = targets.parse(args.target)
  targets.check_compiler(target)
  config, notes = load_config(args.config, args.imports, given['config'])
  set_deterministic(config.deterministic)
  targets.prepare_process(target)

  def run() -> None:
    if args.protocol is None:
      found = report.make(config, target, max_batch=args.max_batch)
      text = report.format_report
    else:
      found = evaluation.make(config, target, args.protocol, args.counts)
      text = evaluation.format_report
    say(notes)
    print(json.dumps(found) if args.json else text(found))

  run_with_exit_code(run)


# ---------------------------------------------------------------- lists
def methods(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Lists the methods."""
  from clr_jax import methods as methods_lib

  user_code.load(args.imports, chosen=True)
  _print_rows([(name, methods_lib.summary(name)) for name in methods_lib.names()])


def datasets(args: argparse.Namespace, given: Mapping[str, Given]) -> None:
  """Lists the data sets."""
  from clr_jax.data import available

  if args.data_dir is not None:
    check_path(args.data_dir)
    if is_local(args.data_dir) and not os.path.isdir(os.path.expanduser(args.data_dir)):
      raise UserError(f'--data_dir={args.data_dir} is not a folder: correct the path')
  user_code.load(args.imports, chosen=True)
  _print_rows(available(args.data_dir))


def _print_rows(rows: list[tuple[str, str]]) -> None:
  width = max(len(name) for name, _ in rows)
  for name, line in rows:
    print(f'{name:{width}}  {line}')
