"""Least time and memory of the rows of a table on hardware that need not be there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from clr_jax.bench.plan import report, targets
from clr_jax.bench.plan.bound import ESTIMATES
from clr_jax.cli.configs import load_config
from clr_jax.cli.process import set_deterministic
from clr_jax.core.errors import UserError
from clr_jax.data.sources.blank import blank_name
from clr_jax.rundir.table import aligned
from clr_jax.studies.tables import Cell

_HEADER = (
  *('row', 'data', 'images a step', 'steps', 'GiB a device'),
  *('ms a step, at least', 'minutes, at least', 'minutes, estimated'),
)


def format_costs(cells: Sequence[Cell], target_name: str) -> str:
  """Formats a table of steps, memory and least training time of each cell, and a line of notes.

  Every step is compiled for the target, with black images in the place of the data set. Evaluation
  is not part of the time.

  Args:
    cells: rows of a table.
    target_name: hardware, as in `clr-jax plan --target`.

  Raises:
    UserError: an unknown target, or no compiler for it here.
  """
  try:
    target = targets.parse(target_name)
    targets.check_compiler(target)
    targets.prepare_process(target)
  except UserError as error:  # the option has another name here
    raise UserError(str(error).replace('--target', '--plan')) from error
  lines: list[tuple[str, ...]] = [_HEADER]
  made = ''
  for number, cell in enumerate(cells, 1):
    print(f'[{number}/{len(cells)}] {cell.row} on {cell.data}', file=sys.stderr, flush=True)
    try:
      found, epochs = _plan(cell, target)
    except UserError as error:
      lines.append((cell.row, cell.data, *('',) * (len(_HEADER) - 3), str(error)))
      continue
    lines.append((cell.row, cell.data, *_numbers(found, epochs)))
    estimated = found['estimated_seconds'] is not None
    made = f'\n\nEstimated: {ESTIMATES[target.chip.platform]}.' if estimated else ''
    made += f'\n\nCompiled for {target.name}, nothing was run; clr-jax {found["code_version"]}, '
    made += ', '.join(f'{name} {version}' for name, version in found['libraries'].items())
  return aligned(lines) + made


def _plan(cell: Cell, target: targets.Target) -> tuple[dict[str, Any], float]:
  """Report of a cell's step, and its number of epochs."""
  config, _ = load_config(cell.spec, (), list(cell.given))
  config.data.name = blank_name(config.data.name)
  set_deterministic(config.deterministic)
  return report.make(config, target), config.num_epochs


def _numbers(found: dict[str, Any], epochs: float) -> tuple[str, ...]:
  steps = round(epochs * found['steps_per_epoch'])
  least, estimate = found['least_seconds'].get('bound'), found['estimated_seconds']
  return (
    str(found['config']['batch_size']),
    f'{steps:,}',
    f'{found["memory"]["peak"] / 2**30:.1f}',
    f'{1000 * least:.2f}' if least else '',
    f'{least * steps / 60:.0f}' if least else '',
    f'{estimate * steps / 60:.0f}' if estimate else '',
  )
