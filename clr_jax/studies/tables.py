"""The accuracy tables of the documents: published numbers, and the configs that reproduce them."""

from __future__ import annotations

import functools
import math
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name, listed
from clr_jax.experiment.config_files import folder

Scale = Literal['full', 'small']


class Cell(NamedTuple):
  """A published number, and the run that reproduces it.

  Attributes:
    table, row, data: its place; `data` names the column.
    spec: config file and argument, as in --config=FILE:ARG.
    given: further values of config keys.
    protocol: protocol that measures it when training ends.
    metric: name of the measured number.
    published: the number in the document, times 100; NaN at small scale.
    half: half of its 95 % interval; NaN if the document has none.
    note: why it is not comparable; '' if it is.
    run: name of its run among those of the table and the data; rows may share one.
    select: values that the params of its record have, or 'features'.
    elsewhere: how the number is made where `reproduce` does not train it; '' if it does.
  """

  table: str
  row: str
  data: str
  spec: str
  given: tuple[tuple[str, str], ...]
  protocol: str
  metric: str
  published: float
  half: float
  note: str
  run: str
  select: tuple[tuple[str, Any], ...]
  elsewhere: str


class Claim(NamedTuple):
  """A difference between rows: those of `more` together minus those of `less` together.

  Attributes:
    text: the document's words, or the rows.
    more, less: names of rows; the claim is that the difference is positive.
    stated: True for a claim of the document, False for a mere comparison with the baseline.
  """

  text: str
  more: tuple[str, ...]
  less: tuple[str, ...]
  stated: bool = True


class Table(NamedTuple):
  """A table of a document.

  Attributes:
    name: its name in `clr-jax reproduce`.
    title: contents of the table, and its place in the document.
    data: data sets, its columns.
    rows: names of the rows.
    baseline: row with which the others are compared; '' for claims alone.
    claims: conclusions that the document draws from it, besides comparisons with the baseline.
    quantity: words for the numbers, which are shown times 100.
    figure: command that draws the figure of the document from the runs in DIR; '' for a table.
  """

  name: str
  title: str
  data: tuple[str, ...]
  rows: tuple[str, ...]
  baseline: str
  claims: tuple[Claim, ...]
  quantity: str
  figure: str

  @property
  def differences(self) -> list[Claim]:
    """Every row against the baseline unless a claim does that, and the claims."""
    claimed = {sides for c in self.claims for sides in ((c.more, c.less), (c.less, c.more))}
    against = [
      Claim(f'{row} - {self.baseline}', (row,), (self.baseline,), False)
      for row in self.rows
      if self.baseline not in ('', row) and ((row,), (self.baseline,)) not in claimed
    ]
    return [*against, *self.claims]


def _read() -> Mapping[str, Any]:
  return _parsed(folder() / 'tables.toml')


@functools.cache
def _parsed(path: pathlib.Path) -> Mapping[str, Any]:
  return tomllib.loads(path.read_text())


def names() -> list[str]:
  """Names of all tables."""
  return list(_read())


def table(name: str) -> Table:
  """The table of that name.

  Raises:
    UserError: there is none.
  """
  found = _read()
  check_name(found, name, 'table')
  content = found[name]
  return Table(
    name,
    content['title'],
    tuple(content['data']),
    tuple(content['rows']),
    content.get('baseline', ''),
    tuple(
      Claim(claim['text'], tuple(claim['more']), tuple(claim['less']))
      for claim in content.get('claims', ())
    ),
    content.get('quantity', 'top-1 accuracy in percent'),
    content.get('figure', ''),
  )


def cells(
  name: str,
  *,
  scale: Scale = 'full',
  rows: Sequence[str] = (),
  data: Sequence[str] = (),
) -> list[Cell]:
  """The cells of a table, row by row.

  Args:
    name: name of the table.
    scale: 'full' is the published setting, 'small' one for a CPU with other data, epochs or width
      and the same protocol.
    rows, data: only these rows and columns; empty = all.

  Raises:
    UserError: no such table, row or column, or a table without a small version.
  """
  known, content = table(name), _read()[name]
  small = scale == 'small'
  if small and 'small' not in content:
    raise UserError(f'{name} has no small version: leave --scale=small out')
  columns = tuple(content.get('small_data', known.data)) if small else known.data
  for row in rows:
    check_name(known.rows, row, f'row of {name}')
  for column in data:
    check_name(columns, column, f'data set of {name}')
  found = []
  for row in rows or known.rows:
    for column in data or columns:
      cell = _cell(content, known, row, column, small)
      # A row of words alone has all of its cells, another one those with a number.
      if small or 'published' not in content['rows'][row] or not math.isnan(cell.published):
        found.append(cell)
  if not found:
    raise UserError(
      f'the document has no number for {listed(rows)} on {listed(data)}: choose another row or '
      'another data set'
    )
  return found


def _cell(content: Mapping[str, Any], known: Table, row: str, column: str, small: bool) -> Cell:
  own = content['rows'][row]
  argument = own.get('argument', content['argument'])
  if small:
    argument = own.get('small_argument', content.get('small_argument', argument))
  flags = [
    *content.get('flags', ()),
    *content.get('data_flags', {}).get(column, ()),
    *own.get('flags', ()),
    *((*content['small'], *own.get('small', ())) if small else ()),
  ]
  place = None if small else known.data.index(column)
  unknown = [math.nan] * len(known.data)
  return Cell(
    known.name,
    row,
    column,
    f'{content["config"]}:{argument.format(data=column, row=row)}',
    tuple({key: value for key, _, value in (flag.partition('=') for flag in flags)}.items()),
    own.get('protocol', content['protocol']),
    content.get('metric', 'top1'),
    math.nan if place is None else own.get('published', unknown)[place],
    math.nan if place is None else own.get('half', unknown)[place],
    'small scale' if small else own.get('note', content.get('note', '')),
    own.get('run', row),
    tuple({**own.get('select', {}), **(own.get('small_select', {}) if small else {})}.items()),
    own.get('elsewhere', content.get('elsewhere', '')).format(data=column, row=row),
  )
