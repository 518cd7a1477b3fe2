"""The command `clr-jax reproduce`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

import jax
from etils import epath

from clr_jax.bench.plan import targets
from clr_jax.cli import expected
from clr_jax.cli.configs import load_config, say
from clr_jax.cli.process import run_with_exit_code
from clr_jax.cli.sweep.devices import held_slots
from clr_jax.cli.sweep.grid import PlannedRun, command
from clr_jax.cli.sweep.slots import find_machine
from clr_jax.cli.sweep.study import Study
from clr_jax.core.errors import EXIT_FAILED, RunStopped, UserError
from clr_jax.core.names import listed
from clr_jax.core.storage import atomic_write, check_writable, first_line, read_file
from clr_jax.rundir.reader import Run
from clr_jax.rundir.table import aligned
from clr_jax.studies import comparison, ledger, pages, plans, tables
from clr_jax.studies.ledger import Entry, Plan
from clr_jax.studies.tables import Cell, Scale

_DIR = 'DIR'  # stands for the folder in the commands of a ledger
Planned = list[tuple[Cell, PlannedRun]]


def list_tables() -> None:
  """Prints the tables, with the numbers of published and of measured accuracies."""
  measured, hours = ledger.packaged(), plans.hours(ledger.packaged(Plan))
  lines = [('table', 'rows', 'numbers', 'runs in the ledger', 'hours, estimated', 'what it shows')]
  for name in tables.names():
    shown = tables.table(name)
    runs = len({entry.command for entry in measured if entry.table == name})
    numbers = sum(not math.isnan(cell.published) for cell in tables.cells(name))
    counts = str(len(shown.rows)), str(numbers), str(runs)
    lines.append((name, *counts, hours.get(name, ''), shown.title))
  print(aligned(lines))


def refuse_without_effect(args: argparse.Namespace) -> None:
  """Refuses options that would be ignored.

  Args:
    args: arguments of the command.

  Raises:
    UserError: options of a table without one, or of runs that nothing trains or lists.
  """
  trained = ('seeds', 'jobs', 'devices_per_run')
  names = ('rows', 'data', 'scale', *trained, 'workdir', 'list', 'check', 'plan')
  unset = ('full', None, [], False)
  given = [name for name in names if getattr(args, name) not in unset]
  if args.table is None and given:
    raise UserError(
      f'{_flags(given)} without a table: name one, as in clr-jax reproduce sogclr-1 '
      f'(clr-jax reproduce lists them)'
    )
  unused = [name for name in given if name in trained]
  if unused and not (args.workdir or args.list or args.plan or args.check):
    raise UserError(f'{_flags(unused)} without runs: give --workdir=DIR to train them, or --list')


def _flags(names: Sequence[str]) -> str:
  return (
    listed([f'--{name}' for name in names])
    + (' has' if len(names) == 1 else ' have')
    + ' no effect'
  )


def add_runs(path: str) -> None:
  """Takes the runs and plans of another ledger into that of the library.

  Args:
    path: the other ledger.

  Raises:
    UserError: no such file, or a line that is of no run of a table.
  """
  place = epath.Path(path)
  if not place.exists():
    raise UserError(f'--add={path}: there is no such file; give the ledger.jsonl of a --workdir')
  new = ledger.read(place)
  ledger.check(new)
  for plan in ledger.of_form(new, Plan):
    try:
      targets.parse(plan.target)
    except UserError as error:
      raise UserError(f'{path} has a plan that no listing could show: {error}') from error
  own = ledger.packaged_path()
  ledger.write(own, [*ledger.read(own), *new])
  print(f'{len(new)} lines of {path} are in {own}')


def write_pages(paths: Sequence[str]) -> None:
  """Makes the tables of pages from the ledger of the library.

  Args:
    paths: Markdown files with marked tables.

  Raises:
    UserError: a file that does not exist or has a damaged mark.
  """
  known = ledger.read(ledger.packaged_path())
  texts = {}
  for path in paths:
    try:
      texts[path] = read_file(path).decode()
    except (OSError, ValueError) as error:
      raise UserError(
        f'--pages={path} cannot be read ({first_line(error)}): give a Markdown file'
      ) from error
  new = {path: pages.filled(text, known) for path, text in texts.items()}
  for path, text in new.items():
    if text != texts[path]:
      atomic_write(epath.Path(path), text)
    print(f'{path}: {"written" if text != texts[path] else "as it was"}')


def run(args: argparse.Namespace) -> None:
  """Trains the rows of a table, lists their commands, or compares the runs of the ledger.

  Args:
    args: arguments of the command.
  """
  shown = tables.cells(args.table, scale=args.scale, rows=args.rows, data=args.data)
  cells = [cell for cell in shown if not cell.elsewhere]
  if not cells and (args.workdir or args.list or args.plan or args.check):
    raise UserError(f'{args.table} is not trained by reproduce: {shown[0].elsewhere}')
  if args.plan is not None:
    _print_plans(cells, args)
  known = _kept(cells, args.scale) if args.check else {}
  seeds = {cell: range(args.seeds or 1) for cell in cells}
  if args.check:
    seeds = {cell: [entry.seed for entry in entries] for cell, entries in known.items()}
    if args.seeds is not None:
      seeds = {cell: own[: args.seeds] for cell, own in seeds.items()}
  runs = _plan(seeds, args.scale)
  costs = expected.format_costs(cells, ledger.packaged(Plan)) if args.scale == 'full' else ''
  if args.list or args.plan is not None:
    if args.plan is None and costs:
      print(costs, file=sys.stderr)
    for planned in _once(runs):
      print(command(planned.arguments(args.workdir or _DIR, ())))
    return
  if args.workdir is None:
    if args.check:
      raise UserError('--check trains runs again: give a new folder for them, --workdir=DIR')
    _compare(args, shown, ledger.packaged())
    if costs:
      print(f'\nExpected cost of a run\n\n{costs}')
    return
  loaded = {own.name: load_config(own.spec, (), own.given) for _, own in runs}
  say(dict.fromkeys(line for _, said in loaded.values() for line in said))
  for cell, own in runs:
    _check_protocol(cell, loaded[own.name][0].eval.protocols)
  configs = {name: config for name, (config, _) in loaded.items()}
  study = Study(args.workdir, _once(runs), configs)
  jax.config.update('jax_platforms', 'cpu')  # the devices are for the runs
  run_with_exit_code(lambda: _train(study, runs, cells, args, known))


def _print_plans(cells: Sequence[Cell], args: argparse.Namespace) -> None:
  """Compiles the steps of cells, prints their cost, and keeps it in the ledger of a workdir."""
  path = epath.Path(args.workdir) / ledger.NAME if args.workdir and args.scale == 'full' else None
  if path:
    check_writable(path.parent)
    ledger.read(path)  # a damaged one is refused before any work
  made = []
  for plan in expected.compiled(cells, args.plan):
    made.append(plan)
    if path:
      ledger.write(path, [*ledger.read(path), plan])
  print(expected.format_costs(cells, made), end='\n\n')


def _kept(cells: Sequence[Cell], scale: Scale) -> dict[Cell, list[Entry]]:
  """The entries of cells in the packaged ledger; UserError if there are none."""
  entries = [entry for entry in ledger.packaged() if entry.scale == scale]
  found = {cell: comparison.entries_of(entries, cell) for cell in cells}
  found = {cell: own for cell, own in found.items() if own}
  if not found:
    rows = listed(dict.fromkeys(cell.row for cell in cells))
    raise UserError(
      f'the ledger has no {scale} run of {rows} in {cells[0].table}: leave --check out to train '
      'them'
    )
  return found


def _plan(seeds: Mapping[Cell, Iterable[int]], scale: Scale) -> Planned:
  planned = []
  for cell, own in seeds.items():
    for seed in own:
      name = f'{cell.table}-{scale}-{cell.run}-{cell.data}-seed={seed}'
      planned.append((cell, PlannedRun(name, cell.spec, [*cell.given, ('seed', str(seed))])))
  return planned


def _once(runs: Planned) -> list[PlannedRun]:
  """The runs, of which several cells may share one."""
  return list({own.name: own for _, own in runs}.values())


def _check_protocol(cell: Cell, protocols: object) -> None:
  if cell.protocol not in protocols:  # type: ignore (a ConfigDict)
    raise UserError(f'{cell.spec} does not measure {cell.protocol}: correct configs/tables.toml')


def _train(
  study: Study,
  runs: Planned,
  cells: Sequence[Cell],
  args: argparse.Namespace,
  known: Mapping[Cell, Sequence[Entry]],
) -> None:
  """Trains the unfinished runs, then compares, even if some runs failed."""
  path = study.folder / ledger.NAME
  ledger.read(path)  # a damaged one is refused before any work
  codes: dict[str, int] | None = {}
  if unfinished := study.unfinished():
    with held_slots(find_machine(), args.jobs, args.devices_per_run) as slots:
      study.check(unfinished)
      codes = study.run(unfinished, slots, ())
  if codes is None:  # this process is being stopped
    return
  left = {own.name for own in study.unfinished()}
  new = [
    ledger.entry_of(cell, args.scale, Run(study.folder / own.name), own.arguments(_DIR, ()))
    for cell, own in runs
    if own.name not in left
  ]
  if kept := ledger.merged(ledger.read(path), [entry for entry in new if entry]):
    ledger.write(path, kept)
  entries = ledger.of_form(kept, Entry)
  if known:
    lines, failed = comparison.check(known, entries)
    print(lines, flush=True)
    study.refuse_failures(codes)
    if failed:
      raise RunStopped(f'{failed} of {len(runs)} runs were not reproduced', EXIT_FAILED)
    return
  _compare(args, cells, ledger.merged(ledger.packaged(), entries))
  print(f'\n{len(entries)} numbers in {os.fspath(path)}', flush=True)
  study.refuse_failures(codes)


def _compare(args: argparse.Namespace, cells: Sequence[Cell], entries: Sequence[Entry]) -> None:
  known = tables.table(args.table)
  own = [entry for entry in entries if entry.table == known.name and entry.scale == args.scale]
  print(f'{known.title}, {args.scale} scale, {known.quantity}\n')
  print(aligned(comparison.cell_lines(cells, own)))
  found = comparison.differences(known, cells, tables.cells(args.table), own)
  if found:
    print(f'\n{aligned(comparison.difference_lines(found))}', flush=True)
  if known.figure:
    print(f'\nThe figure, after the runs in DIR: {known.figure}', flush=True)
