"""The command `clr-jax sweep`."""

from __future__ import annotations

import argparse
from typing import Any

import jax

from clr_jax.cli.configs import load_config, say
from clr_jax.cli.overrides import Given
from clr_jax.cli.process import run_with_exit_code
from clr_jax.cli.sweep import grid
from clr_jax.cli.sweep.devices import held_slots
from clr_jax.cli.sweep.slots import find_machine
from clr_jax.cli.sweep.study import Study, digests_of
from clr_jax.core.errors import UserError


def run(args: argparse.Namespace, fixed: Given, options: dict[str, Any]) -> None:
  """Lists the runs of a grid, trains them, or only draws their results.

  Args:
    args: arguments of the command.
    fixed: values of config keys that all runs share.
    options: checked options of the figure `sweep`.
  """
  grid.check_axes(args.grid, fixed)
  several = [axis.keys[0] for axis in args.grid if len(axis.values) > 1]
  options = {'by': several[0], **options} if several else options
  first, _ = load_config(args.config[0], args.imports, fixed)
  seeds = range(first.seed, first.seed + args.seeds)
  runs = grid.plan(args.config, args.grid, fixed, seeds)
  loaded = {run.name: load_config(run.spec, args.imports, run.given) for run in runs}
  say(dict.fromkeys(line for _, said in loaded.values() for line in said))
  configs = {name: config for name, (config, _) in loaded.items()}
  if args.list:
    digests_of(configs)
    for run in runs:
      print(grid.command(run.arguments(args.workdir, args.imports)))
    return
  study = Study(args.workdir, runs, configs)
  jax.config.update('jax_platforms', 'cpu')  # the devices are for the runs
  if args.summary:
    study.summarize(options)
    return
  run_with_exit_code(lambda: _train(study, args, options))


def _train(study: Study, args: argparse.Namespace, options: dict[str, Any]) -> None:
  """Trains the unfinished runs, then draws the results, even if some runs failed."""
  codes: dict[str, int] | None = {}
  if unfinished := study.unfinished():
    with held_slots(find_machine(), args.jobs, args.devices_per_run) as slots:
      study.check(unfinished)
      codes = study.run(unfinished, slots, args.imports)
  if codes is None:  # this process is being stopped
    return
  try:
    study.summarize(options)
  except UserError as error:  # such as runs without labels, which were trained nevertheless
    print(f'no table: {error}', flush=True)
  study.refuse_failures(codes)
