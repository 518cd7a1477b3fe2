"""Compares published with measured accuracies: intervals and verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from clr_jax.core.intervals import Interval, interval
from clr_jax.rundir.table import aligned
from clr_jax.studies.ledger import Entry
from clr_jax.studies.tables import Cell, Claim, Table

_POWER = 0.8  # of the number of seeds: the probability to find a difference of the published size
_MOST_SEEDS = 1000
# Fields that determine an accuracy to the bit, besides the config and the seed.
_SAME = ('code_version', 'libraries', 'device', 'cores', 'data_checksum')

Values = Mapping[int, float]  # {seed: accuracy in percent}


class Difference(NamedTuple):
  """A difference between rows on the same data, paired by seed.

  Attributes:
    claim: the rows.
    data: the data set.
    published: difference of the published numbers, in points; NaN if one is not published.
    ours: mean and 95 % interval of our differences; None without common seeds.
    seeds_needed: seeds with which a difference of the published size (of our own for a claim
      without numbers) would be found with a probability of 0.8; None if that cannot be said.
    note: why the published numbers are not comparable; '' if they are.
  """

  claim: Claim
  data: str
  published: float
  ours: Interval | None
  seeds_needed: int | None
  note: str = ''

  @property
  def verdict(self) -> str:
    """Conclusion of our runs about the published difference, or about the claim."""
    if self.ours is None:
      return 'not run'
    if math.isnan(self.ours.half):
      return 'undecided: one seed'
    if abs(self.ours.mean) <= self.ours.half:
      return 'undecided: the interval contains zero'
    if not self.ours.half:
      return 'undecided: no spread between the seeds'
    if self.note and not self.claim.stated:
      return f'not comparable: {self.note}'
    expected = 1.0 if self.claim.stated else self.published
    if math.isnan(expected) or not expected:
      return 'different from the baseline'
    return 'confirmed' if self.ours.mean * expected > 0 else 'contradicted'


def entries_of(entries: Iterable[Entry], cell: Cell) -> list[Entry]:
  """The entries of a cell, among those of one scale."""
  place = cell.table, cell.row, cell.data
  return [entry for entry in entries if (entry.table, entry.row, entry.data) == place]


def values(entries: Iterable[Entry], cell: Cell) -> Values:
  """{seed: accuracy in percent} of a cell, among the entries of one scale."""
  return {entry.seed: 100 * entry.value for entry in entries_of(entries, cell)}


def verdict(cell: Cell, ours: Interval | None) -> str:
  """Conclusion: agreement means within both intervals.

  A published number without an interval is taken for one run: it agrees if it lies in the 95 %
  prediction interval of our seeds.
  """
  if cell.elsewhere:
    return f'not trained here: {cell.elsewhere}'
  reason = f'not comparable: {cell.note}' if cell.note else ''
  if ours is None:
    return f'not run; {reason}' if reason else 'not run'
  if reason:
    return reason
  if math.isnan(cell.published):
    return 'no published number'
  if math.isnan(ours.half):
    return 'no interval: one seed'
  one_run = math.isnan(cell.half)
  allowed = ours.half * math.sqrt(ours.n + 1) if one_run else ours.half + cell.half
  return 'agrees' if abs(ours.mean - cell.published) <= allowed else 'does not agree'


def differences(
  table: Table, cells: Sequence[Cell], published: Sequence[Cell], entries: Iterable[Entry]
) -> list[Difference]:
  """The differences of a table that concern some of its rows, paired by seed.

  Args:
    table: the table.
    cells: its cells at one scale; claims need all of their rows among them.
    published: its cells at full scale.
    entries: entries of the scale of `cells`.
  """
  entries = list(entries)
  numbers = {(cell.row, cell.data): cell.published for cell in published}
  notes = {(cell.row, cell.data): cell.note for cell in published}
  rows = {cell.row for cell in cells}
  found = []
  for claim in table.differences:
    if not rows.issuperset((*claim.more, *claim.less) if claim.stated else claim.more):
      continue
    for cell in cells:
      if cell.row != claim.more[0]:
        continue
      sides = [[cell._replace(row=row) for row in side] for side in (claim.more, claim.less)]
      size = _contrast([[numbers.get((c.row, c.data), math.nan) for c in side] for side in sides])
      ours = [[values(entries, c) for c in side] for side in sides]
      seeds = set.intersection(*(set(own) for side in ours for own in side))
      pairs = [_contrast([[own[seed] for own in side] for side in ours]) for seed in sorted(seeds)]
      needed = None
      if len(pairs) > 1:
        sought = float(np.mean(pairs)) if claim.stated and math.isnan(size) else size
        needed = seeds_needed(sought, float(np.std(pairs, ddof=1)))
      given = [notes.get((c.row, c.data), '') for side in sides for c in side]
      found.append(
        Difference(
          claim,
          cell.data,
          size,
          interval(pairs) if pairs else None,
          needed,
          ', '.join(dict.fromkeys(filter(None, given))),
        )
      )
  return found


def _contrast(sides: Sequence[Sequence[float]]) -> float:
  more, less = sides
  return sum(more) - sum(less)


def seeds_needed(difference: float, deviation: float) -> int | None:
  """Pairs of runs with which a two-sided paired t-test at 5 % finds a difference with power 0.8.

  Args:
    difference: true mean difference.
    deviation: standard deviation of a pair's difference.

  Returns:
    At least 2; None for no difference, or if more than 1,000 are needed.
  """
  if not abs(difference) > 0:  # also NaN
    return None
  for n in range(2, _MOST_SEEDS + 1):
    reach = stdtrit(n - 1, 0.975) + stdtrit(n - 1, _POWER)
    if abs(difference) * math.sqrt(n) >= reach * deviation:
      return n
  return None


def check(known: Mapping[Cell, Sequence[Entry]], new: Iterable[Entry]) -> tuple[str, int]:
  """Compares runs that were trained again with those of a ledger.

  With the same code, libraries, device, cores and data the two accuracies must be equal; otherwise
  the new one must lie in the 95 % prediction interval of the known seeds.

  Args:
    known: entries of the ledger by cell.
    new: entries of the new runs.

  Returns:
    A table with a line for each run, and the number of runs that were not reproduced.
  """
  found = {entry.key: entry for entry in new}
  lines = [('row', 'data', 'seed', 'ledger', 'again', 'verdict')]
  failed = 0
  for cell, entries in known.items():
    for old in entries:
      again = found.get(old.key)
      if again is None:
        continue
      text, good = _reproduced(old, again, [100 * entry.value for entry in entries])
      failed += not good
      before, now = f'{100 * old.value:.2f}', f'{100 * again.value:.2f}'
      lines.append((cell.row, cell.data, str(old.seed), before, now, text))
  return aligned(lines), failed


def _reproduced(old: Entry, again: Entry, seeds: Sequence[float]) -> tuple[str, bool]:
  """A verdict, and True if it is good; `seeds` has the accuracies of all known seeds."""
  if old.value == again.value:
    return 'equal', True
  if all(getattr(old, name) == getattr(again, name) for name in _SAME):
    return 'not equal, with the same code, libraries, device, cores and data', False
  n = len(seeds)
  if n < 2:
    return 'not decided: the ledger has one seed', True
  reach = stdtrit(n - 1, 0.975) * np.std(seeds, ddof=1) * math.sqrt(1 + 1 / n)
  if abs(100 * again.value - np.mean(seeds)) <= reach:
    return 'within the prediction interval of the seeds', True
  return 'outside the prediction interval of the seeds', False


def cell_lines(cells: Sequence[Cell], entries: Iterable[Entry]) -> list[tuple[str, ...]]:
  """Lines of a table of cells: published, ours, difference, protocol, time, device, verdict."""
  entries = list(entries)
  head = ('row', 'data', 'published', 'ours', 'difference', 'protocol', 'hours a run', 'device')
  lines: list[tuple[str, ...]] = [(*head, 'verdict')]
  for cell in cells:
    own = values(entries, cell)
    ours = interval(list(own.values())) if own else None
    difference = '' if ours is None or math.isnan(cell.published) else ours.mean - cell.published
    runs = entries_of(entries, cell)
    hours = [entry.seconds / 3600 for entry in runs]
    lines.append(
      (
        cell.row,
        cell.data,
        _published(cell),
        '' if ours is None else _text(ours),
        difference if isinstance(difference, str) else f'{difference:+.2f}',
        cell.protocol,
        _hours(hours),
        ', '.join(sorted({entry.device for entry in runs})),
        verdict(cell, ours),
      )
    )
  return lines


def _hours(of_runs: Sequence[float]) -> str:
  if not of_runs:
    return ''
  mean = float(np.mean(of_runs))
  return f'{mean:.2f}' if mean >= 0.005 else '< 0.01'


def difference_lines(found: Sequence[Difference]) -> list[tuple[str, ...]]:
  """Lines of a table of differences."""
  lines = [('difference', 'data', 'published', 'ours', 'seeds needed', 'verdict')]
  for item in found:
    lines.append(
      (
        item.claim.text,
        item.data,
        '' if math.isnan(item.published) else f'{item.published:+.2f}',
        '' if item.ours is None else _text(item.ours, sign='+'),
        str(item.seeds_needed or ''),
        item.verdict,
      )
    )
  return lines


def _published(cell: Cell) -> str:
  if math.isnan(cell.published):
    return ''
  return f'{cell.published:.2f}' + ('' if math.isnan(cell.half) else f' +- {cell.half:.2f}')


def _text(value: Interval, sign: str = '') -> str:
  half = '' if math.isnan(value.half) else f' +- {value.half:.2f}'
  return f'{value.mean:{sign}.2f}{half} (n={value.n})'
