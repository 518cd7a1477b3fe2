"""Tables of Markdown pages that are made from the ledger.

A page has a line `<!-- ledger: TABLE small -->`, or with `full`, and later `<!-- end -->`; with
`page`, TABLE is the name of a `ledger.PageTable`, and `<!-- ledger: all plans -->` is the expected
cost of all tables. What is between them is written by `filled` and never by hand.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.studies import comparison, ledger, plans, tables
from clr_jax.studies.ledger import Entry, Line, PageTable, Plan
from clr_jax.studies.tables import Scale

_BEGIN = '<!-- ledger: '
_OPENING = rf'^{_BEGIN}(\S+) (full|small|page|plans) -->\n'
_END = '<!-- end -->'
_WIDTH = 120
_COMPILERS = 'jax', 'nvidia', 'libtpu'  # starts of the names of packages
_BLOCK = re.compile(f'({_OPENING})(?:(?!^{_BEGIN}).)*?(^{_END})', re.DOTALL | re.MULTILINE)


def filled(text: str, known: Iterable[Line]) -> str:
  """The text of a page with its tables made anew.

  Args:
    text: the page.
    known: lines of the ledger.

  Raises:
    UserError: an unknown table, or a table without an end.
  """
  known = list(known)
  page_tables = {table.name: table for table in ledger.of_form(known, PageTable)}
  if len(re.findall(f'^{_BEGIN}', text, re.MULTILINE)) != len(_BLOCK.findall(text)):
    raise UserError(
      f'a table of the page has another form than "<!-- ledger: TABLE small -->", "full", "page" '
      f'or "plans" in a line of its own, and a later {_END!r}: correct it'
    )

  def anew(found: re.Match[str]) -> str:
    opening, name, scale, end = found.groups()
    if scale == 'page':
      check_name(page_tables, name, 'table of a page')
      made = f'\n{_markdown([page_tables[name].columns, *page_tables[name].rows])}\n\n'
    elif scale == 'plans':
      check_name(('all',), name, 'group of plans of a page')
      made = _costs(ledger.of_form(known, Plan))
    else:
      made = block(name, 'small' if scale == 'small' else 'full', ledger.of_form(known, Entry))
    return f'{opening}{made}{end}'

  return _BLOCK.sub(anew, text)


def _costs(made: Sequence[Plan]) -> str:
  """The cost of each table, and the provenance of the plans."""
  if not made:
    return '\nNo plan yet.\n\n'
  head, *rows = plans.summary_lines(made)
  shown = [head, *((f'`{name}`', f'`{target}`', *values) for name, target, *values in rows)]
  text = (
    f'Compiled until {max(plan.time for plan in made)[:10]}, {len(made)} programs, revision '
    f'{_all_of(plan.code_version for plan in made)}, {_libraries(made)}.'
  )
  return f'\n{_markdown(shown)}\n\n{textwrap.fill(text, _WIDTH, break_on_hyphens=False)}\n\n'


def _libraries(made: Sequence[Plan]) -> str:
  """The libraries that determine a program, with their versions."""
  names = sorted({name for plan in made for name in plan.libraries if name.startswith(_COMPILERS)})
  return ', '.join(
    f'{name} {_all_of(plan.libraries[name] for plan in made if name in plan.libraries)}'
    for name in names
  )


def _all_of(values: Iterable[str]) -> str:
  return ', '.join(sorted(set(values)))


def block(name: str, scale: Scale, entries: Iterable[Entry]) -> str:
  """Tables of the rows of a table that have runs, of their differences, and their provenance.

  Args:
    name: name of the table.
    scale: scale of the runs.
    entries: the ledger.

  Raises:
    UserError: there is no such table.
  """
  known = tables.table(name)
  own = [entry for entry in entries if (entry.table, entry.scale) == (name, scale)]
  if not own:
    return '\nNo run yet.\n\n'
  cells = [c for c in tables.cells(name, scale=scale) if comparison.entries_of(own, c)]
  rows = comparison.cell_lines(cells, own)
  if scale == 'small':  # it has no published number to agree with
    rows = [line[:-1] for line in rows]
  found = comparison.differences(known, cells, tables.cells(name), own)
  parts = [_markdown(rows)]
  if shown := [item for item in found if item.ours]:
    parts.append(_markdown(comparison.difference_lines(shown)))
  return '\n' + '\n\n'.join([*parts, _made(known.name, scale, own)]) + '\n\n'


def _markdown(lines: Sequence[Sequence[str]]) -> str:
  """A table of Markdown without the columns that are empty."""
  columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
  head, *rest = zip(*columns, strict=True)
  shown = [head, ['---'] * len(head), *rest]
  return '\n'.join(f'| {" | ".join(line)} |' for line in shown).replace('+-', '±')


def _made(name: str, scale: Scale, entries: Sequence[Entry]) -> str:
  """Provenance of the numbers, and the commands that make them again."""
  by_seeds: dict[int, list[str]] = {}
  for row in tables.table(name).rows:
    if seeds := [entry.seed + 1 for entry in entries if entry.row == row]:
      by_seeds.setdefault(max(seeds), []).append(row)
  cores = max(entry.cores for entry in entries)
  runs = {entry.command: entry.seconds for entry in entries}  # one run may have several numbers
  quantity = tables.table(name).quantity
  text = (
    f'{quantity[0].upper()}{quantity[1:]}; mean ± half of the 95 % interval over n seeds '
    f"(Student's t), differences paired by seed. {len(runs)} run{'s' * (len(runs) > 1)}, "
    f'{sum(runs.values()) / 60:.0f} minutes of training steps, '
    f'{_all_of(entry.device for entry in entries)} with {cores} core{"s" * (cores > 1)}, JAX '
    f'{_all_of(entry.libraries.get("jax", "?") for entry in entries)}, revision '
    f'{_all_of(entry.code_version for entry in entries)}, until '
    f'{max(entry.time for entry in entries)[:10]}:'
  )
  commands = '\n'.join(
    f'clr-jax reproduce {name} --scale={scale} --rows={",".join(rows)} --seeds={seeds} '
    f'--workdir=DIR'
    for seeds, rows in by_seeds.items()
  )
  return f'{textwrap.fill(text, _WIDTH, break_on_hyphens=False)}\n\n```bash\n{commands}\n```'
