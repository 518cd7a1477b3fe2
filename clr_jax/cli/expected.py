"""Time and memory of the rows of a table on hardware that need not be there."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence

from clr_jax.bench.plan import report, targets
from clr_jax.bench.plan.bound import ESTIMATES
from clr_jax.cli.configs import load_config
from clr_jax.cli.process import set_deterministic
from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.names import listed
from clr_jax.data.sources.blank import blank_name
from clr_jax.rundir.codec import now
from clr_jax.rundir.table import aligned
from clr_jax.studies import plans
from clr_jax.studies.ledger import Plan
from clr_jax.studies.tables import Cell


def compiled(cells: Sequence[Cell], target_name: str) -> Iterator[Plan]:
  """Compiles the training steps of cells for a target, those that differ only in numbers once.

  Black images stand for the data set. Evaluation is not part of the time. Of a step that cannot be
  compiled, one line on stderr says why.

  Args:
    cells: cells of tables at one scale.
    target_name: hardware, as in `clr-jax plan --target`.

  Yields:
    The cost of each step.

  Raises:
    UserError: an unknown target, no compiler for it here, or no step that can be compiled.
  """
  try:
    target = targets.parse(target_name)
    targets.check_compiler(target)
    targets.prepare_process(target)
  except UserError as error:  # the option has another name here
    raise UserError(str(error).replace('--target', '--plan')) from error
  steps: dict[str, list[tuple[Cell, Config]]] = {}
  refused = []

  def refuse(cell: Cell, error: UserError) -> None:
    refused.append(f'{cell.row} on {cell.data}: {error}')
    print(refused[-1], file=sys.stderr, flush=True)

  for cell in {(c.table, c.run, c.data): c for c in cells}.values():
    try:
      config, _ = load_config(cell.spec, (), list(cell.given))
      steps.setdefault(plans.step_key(config), []).append((cell, config))
    except UserError as error:
      refuse(cell, error)
  made = 0
  for number, own in enumerate(steps.values(), 1):
    cell, config = own[0]
    print(f'[{number}/{len(steps)}] {cell.row} on {cell.data}', file=sys.stderr, flush=True)
    try:
      yield _compile(own, config, target)
      made += 1
    except UserError as error:
      refuse(cell, error)
  if not made:
    raise UserError(f'nothing was compiled for {target_name}; see above')


def _compile(own: Sequence[tuple[Cell, Config]], config: Config, target: targets.Target) -> Plan:
  """The cost of runs whose steps cost the same, of which `config`, the first, is compiled."""
  config.data.name = blank_name(config.data.name)
  set_deterministic(config.deterministic)
  found = report.make(config, target)
  if not found['fits']:
    raise UserError(
      f'{found["memory"]["peak"] / 2**30:.1f} GiB do not fit into a device of {target.name}: give '
      'more devices'
    )
  epoch, first = found['steps_per_epoch'], own[0][0]
  arguments = [first.table, f'--rows={first.row}', f'--data={first.data}', f'--plan={target.name}']
  return Plan(
    target.name,
    [(c.table, c.run, c.data, round(float(other.num_epochs) * epoch)) for c, other in own],
    config.batch_size,
    found['memory']['peak'],
    found['least_seconds'].get('bound'),
    found['estimated_seconds'],
    shlex.join(['clr-jax', 'reproduce', *arguments]),
    found['code_version'],
    found['libraries'],
    now(),
  )


def format_costs(cells: Sequence[Cell], made: Sequence[Plan]) -> str:
  """Formats a table of steps, memory and training time of each cell that has plans, and notes.

  Args:
    cells: cells of a table.
    made: plans.

  Returns:
    '' without plans of these cells.
  """
  found = plans.costs(cells, made)
  if not found:
    return ''
  text = aligned(plans.cost_lines(found))
  used = [cost.plan for _, cost in found]
  for platform in sorted({targets.CHIPS[p.target.partition(':')[0]].platform for p in used}):
    if platform in ESTIMATES:
      text += f'\n\nEstimated: {ESTIMATES[platform]}.'
  versions = listed(sorted({plan.code_version for plan in used}))
  return f'{text}\n\nCompiled by clr-jax {versions}; nothing was run; without evaluation.'
