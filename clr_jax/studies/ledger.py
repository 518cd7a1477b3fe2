"""The ledger: measurements for the tables of documents and pages, with their provenance.

A line is an `Entry`, a number of a run that belongs to a cell of `configs/tables.toml`, a `Plan`,
the expected cost of such runs, or a `PageTable`, a table of a page that belongs to none.
"""

from __future__ import annotations

import json
import math
import shlex
import statistics
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from annotated_types import Ge, MinLen
from etils import epath

from clr_jax.core.annotations import check_value
from clr_jax.core.bounds import Count, Positive
from clr_jax.core.errors import UserError
from clr_jax.core.names import listed
from clr_jax.core.storage import atomic_write, first_line, read_file
from clr_jax.experiment.config_files import folder
from clr_jax.rundir.reader import Run
from clr_jax.studies.tables import Cell, Scale, cells

NAME = 'ledger.jsonl'


class Entry(NamedTuple):
  """A measured number of a run.

  Attributes:
    table, row, data, scale: cell of a table.
    seed: seed of the run.
    value: top-1 accuracy in [0, 1] or another metric, the mean over the draws of the protocol.
    protocol: name of the protocol.
    metric: name of the metric.
    params: its parameters, of the first draw.
    command: command that trains the run; its workdir is DIR.
    step: number of training steps.
    seconds: time of these steps.
    config_hash: digest of the config.
    code_version, libraries, device, cores, data_checksum, time: provenance of the measurement.
  """

  table: str
  row: str
  data: str
  scale: str
  seed: int
  value: float
  protocol: str
  metric: str
  params: Mapping[str, Any]
  command: str
  step: int
  seconds: float
  config_hash: str
  code_version: str
  libraries: Mapping[str, str]
  device: str
  cores: int
  data_checksum: str
  time: str

  @property
  def key(self) -> tuple[str, str, str, str, int]:
    """Its place: a later entry of the same place replaces an earlier one."""
    return self.table, self.row, self.data, self.scale, self.seed


class Plan(NamedTuple):
  """Cost of a training step on hardware, from the compiled program; nothing was run.

  Attributes:
    target: hardware, as in `clr-jax plan --target`.
    runs: (table, run, data, steps) of each run at full scale whose steps cost the same; `run` as in
      `Cell`.
    images: images a step, on all devices together.
    memory: peak bytes a device.
    least_seconds, estimated_seconds: lower bound and estimate of a step; None without one for the
      target.
    command: command that compiles the step of the first run.
    code_version, libraries, time: provenance.
  """

  target: str
  runs: Annotated[Sequence[tuple[str, str, str, Count]], MinLen(1)]
  images: Count
  memory: Annotated[int, Ge(1)]
  least_seconds: Positive | None
  estimated_seconds: Positive | None
  command: str
  code_version: str
  libraries: Mapping[str, str]
  time: str

  @property
  def key(self) -> tuple[str, ...]:
    """Its place in a file."""
    return self.target, *self.runs[0][:3]


class PageTable(NamedTuple):
  """A table of a page whose numbers belong to no document.

  Attributes:
    name: its name in the mark of the page.
    columns: heads of its columns.
    rows: texts of its cells, row by row.
    command: commands that make it; their folder is DIR.
    seeds: seeds of the runs.
    code_version, libraries, device, cores, data_checksum, time: provenance of the measurement.
  """

  name: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str]]
  command: str
  seeds: Sequence[int]
  code_version: str
  libraries: Mapping[str, str]
  device: str
  cores: int
  data_checksum: str
  time: str

  @property
  def key(self) -> tuple[str, ...]:
    """Its place: its name."""
    return (self.name,)


Line = Entry | Plan | PageTable
_FORMS = {'columns': PageTable, 'target': Plan}  # a field that no other form has
_ORDER = Entry, Plan, PageTable
_Form = TypeVar('_Form', bound=Line)


def packaged_path() -> epath.Path:
  """The ledger that comes with the library."""
  return epath.Path(folder() / NAME)


def packaged(form: type[_Form] = Entry) -> list[_Form]:
  """The lines of one form that come with the library."""
  return of_form(read(packaged_path()), form)


def of_form(lines: Iterable[Line], form: type[_Form]) -> list[_Form]:
  """Selects the lines that are `Entry`, `Plan` or `PageTable`."""
  return [line for line in lines if isinstance(line, form)]


def read(path: epath.Path) -> list[Line]:
  """Reads a ledger; one that does not exist has no lines.

  Raises:
    UserError: not a file of text, or a line that is not of a ledger.
  """
  if not path.exists():
    return []
  try:
    texts = read_file(path).decode().splitlines()
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} cannot be read ({first_line(error)}): give the ledger.jsonl of a --workdir'
    ) from error
  found = []
  for number, text in enumerate(texts, 1):
    try:
      found.append(_parsed(json.loads(text)))
    except (TypeError, ValueError, UserError) as error:
      raise UserError(
        f'line {number} of {path} is not one of a ledger ({error}): repair or remove it'
      ) from error
  return found


def _parsed(fields: Any) -> Line:
  """The content of a line; raises an error for other fields or types."""
  if not isinstance(fields, dict):
    raise ValueError('it has no fields')
  form = next((own for name, own in _FORMS.items() if name in fields), Entry)
  if fields.keys() != set(form._fields):
    raise ValueError('it has other fields')
  line = form(**fields)
  for name, hint in typing.get_type_hints(form, include_extras=True).items():
    check_value(name, getattr(line, name), hint)
  return line


def write(path: epath.Path, lines: Iterable[Line]) -> None:
  """Replaces a ledger by these lines, `merged`.

  Raises:
    UserError, OSError: see `clr_jax.core.storage.atomic_write`.
  """
  atomic_write(path, ''.join(json.dumps(line._asdict()) + '\n' for line in merged(lines)))


def merged(*ledgers: Iterable[_Form]) -> list[_Form]:
  """Entries, plans and tables, sorted; of those for the same place or run the last one counts."""
  given = _current([line for own in ledgers for line in own])
  found = {(_ORDER.index(type(line)), line.key): line for line in given}
  return [found[place] for place in sorted(found)]


def _current(lines: Sequence[_Form]) -> list[_Form]:
  """The lines, plans with only those of their runs that no later plan for the target has."""
  last = {(plan.target, *run[:3]): plan for plan in of_form(lines, Plan) for run in plan.runs}
  kept = []
  for line in lines:
    if isinstance(line, Plan):
      line = line._replace(runs=[r for r in line.runs if last[line.target, *r[:3]] is line])
      if not line.runs:
        continue
    kept.append(line)
  return kept


def check(new: Iterable[Line]) -> None:
  """Checks that entries and plans belong to cells of the tables, measured by their protocols.

  Raises:
    UserError: the first line that does not.
  """
  for line in new:
    if isinstance(line, Entry):
      _check_entry(line)
    elif isinstance(line, Plan):
      for table, run, data, _ in line.runs:
        if not any((c.run, c.data) == (run, data) for c in cells(str(table))):
          raise UserError(f'{table} has no run {run} on {data}: leave the plan out')


def _check_entry(entry: Entry) -> None:
  scale: Scale = 'small' if entry.scale == 'small' else 'full'
  (cell,) = cells(entry.table, scale=scale, rows=[entry.row], data=[entry.data])
  wrong = [
    f'{name} {own!r} instead of {right!r}'
    for name, own, right in (
      ('scale', entry.scale, scale),
      ('protocol', entry.protocol, cell.protocol),
      ('metric', entry.metric, cell.metric),
      ('config', entry.command.partition('--config=')[2].partition(' ')[0], cell.spec),
    )
    if own != right
  ]
  if entry.metric == 'top1' and not 0 < entry.value < 1:
    wrong.append(f'value {entry.value} instead of one between 0 and 1')
  elif not 0 <= entry.value < math.inf:  # also NaN
    wrong.append(f'value {entry.value} instead of a finite one of at least 0')
  if wrong:
    raise UserError(
      f'the run of {entry.row} on {entry.data} with seed {entry.seed} is none of {entry.table} '
      f'({listed(wrong)}): leave its line out'
    )


def entry_of(cell: Cell, scale: Scale, run: Run, command: Sequence[str]) -> Entry | None:
  """The entry of a finished run; None if its protocol has measured nothing yet.

  Args:
    cell: the cell that the run reproduces.
    scale: its scale.
    run: the run.
    command: arguments of `clr-jax` that train it.
  """
  records = [record for record in run.results if _measures(record, cell)]
  if not records:
    return None
  newest = max(record['step'] for record in records)
  draws = [record for record in records if record['step'] == newest]
  # The last measurement of a draw counts.
  by_draw = {record['params'].get('draw', 0): record for record in draws}
  first = next(iter(by_draw.values()))
  return Entry(
    cell.table,
    cell.row,
    cell.data,
    scale,
    int(run.config.seed),
    statistics.fmean(record['value'] for record in by_draw.values()),
    cell.protocol,
    cell.metric,
    first['params'],
    shlex.join(['clr-jax', *command]),
    newest,
    _training_seconds(run),
    first['config_hash'],
    first['code_version'],
    first['libraries'],
    first['device'],
    first['cores'],
    first['data_checksum'],
    first['time'],
  )


# Values that the record of a cell has unless the cell selects others. An epoch that was chosen on
# the test set is too high.
_USUAL = {'features': 'trained', 'label_fraction': 1.0, 'selection': 'last', 'baseline': ''}


def _measures(record: Mapping[str, Any], cell: Cell) -> bool:
  """True if a record is the number of a cell, or one draw of it."""
  if record['protocol'] != cell.protocol or record['metric'] != cell.metric:
    return False
  asked = _USUAL | dict(cell.select)
  found = _USUAL | record['params'] | {'features': record['features']}
  return all(found.get(key) == value for key, value in asked.items())


def _training_seconds(run: Run) -> float:
  """Time of all steps, from the speed in each row of the metrics."""
  seconds, before = 0.0, 0
  for step, speed in zip(*run.series('samples_per_second'), strict=True):
    seconds += (step - before) * run.config.batch_size / max(speed, 1e-9)
    before = step
  return round(seconds, 1)
