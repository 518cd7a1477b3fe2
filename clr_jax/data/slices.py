"""Slices of a split, `train[:10000]` or `train[10%:90%]`, with TFDS's syntax and rounding.

`train[90%::shuffled]` takes its share of a fixed random order, for data that are sorted by class.
`train+unlabelled` joins splits, see `clr_jax.data.joined`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from clr_jax.core.errors import UserError
from clr_jax.data.order import shuffled

_BOUND = r'-?\d[\d_]*%?'
_SPLIT = re.compile(
  rf'(?P<base>[^\[\]]+?)(\[(?P<lo>{_BOUND})?:(?P<hi>{_BOUND})?(?P<order>:shuffled)?\])?'
)


def parts_of(split: str) -> list[str]:
  """The splits that a text joins: 'train[:50%]+unlabelled' -> ['train[:50%]', 'unlabelled'].

  Raises:
    UserError: one of them is empty.
  """
  parts = [part.strip() for part in split.split('+')]
  if not all(parts):
    raise _unreadable(split)
  return parts


def base_split(split: str) -> str:
  """The name in front of the slice: 'train[:10%]' -> 'train'.

  Raises:
    UserError: the text is neither `name` nor `name[a:b]`.
  """
  match = _SPLIT.fullmatch(split.strip())
  if match is None:
    raise _unreadable(split)
  return match['base']


def _unreadable(split: str) -> UserError:
  return UserError(
    f"cannot read the split {split!r}: write 'train', 'train[:1000]' or 'train[10%:90%]'"
  )


def _bound(text: str | None, default: int, n: int, split: str) -> int:
  if text is None:
    return default
  # TFDS's rounding='closest': a slice selects the same examples as in TFDS.
  value = round(int(text[:-1]) * n / 100) if text.endswith('%') else int(text)
  if abs(value) > n:
    raise UserError(
      f'the split {split!r} reaches beyond the {n} examples that there are: take a smaller slice'
    )
  return value + n if value < 0 else value


def resolve_split(split: str, sizes: Mapping[str, int], *, source: str) -> tuple[str, int, int]:
  """`split` as (base name, first row, row after the last), given the size of each known split.

  Raises:
    UserError: bad syntax, unknown split (lists the known ones), or a slice that is empty or too
      long.
  """
  base = base_split(split)
  if base not in sizes:
    known = ', '.join(sizes)
    raise UserError(f'{source} has no split {base!r}: choose one of {known}')
  match = _SPLIT.fullmatch(split.strip())
  assert match is not None  # base_split has checked it
  if match['lo'] and match['hi'] and match['lo'].endswith('%') != match['hi'].endswith('%'):
    # TFDS silently reads both as percentages.
    raise UserError(f'the split {split!r} mixes a number with a percentage: use one of them')
  n = sizes[base]
  lo, hi = _bound(match['lo'], 0, n, split), _bound(match['hi'], n, n, split)
  if lo >= hi:
    raise UserError(
      f'the split {split!r} of {source} selects none of the {n} examples: '
      f'{"take a larger slice" if n else "give a data set with images"}'
    )
  return base, lo, hi


def selected_rows(
  split: str, sizes: Mapping[str, int], *, source: str, limit: int | None = None
) -> tuple[str, np.ndarray]:
  """(base name, [n] the rows of a split that a slice selects, ascending); see `resolve_split`.

  Args:
    limit: largest number of rows; the first ones are kept.
  """
  base, lo, hi = resolve_split(split, sizes, source=source)
  hi = hi if limit is None else min(hi, lo + limit)
  match = _SPLIT.fullmatch(split.strip())
  if match and match['order']:
    return base, np.sort(shuffled(0, 0, sizes[base])[lo:hi])
  return base, np.arange(lo, hi)


def complement(split: str) -> str | None:
  """The slice of all other examples, if it is one: 'train[80%:]' -> 'train[:80%]'."""
  match = _SPLIT.fullmatch(split.strip())
  if match is None or bool(match['lo']) == bool(match['hi']):
    return None
  order = match['order'] or ''
  if match['lo']:
    return f'{match["base"]}[:{match["lo"]}{order}]'
  return f'{match["base"]}[{match["hi"]}:{order}]'
