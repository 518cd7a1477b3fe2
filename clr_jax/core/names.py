"""Look-up of names that users write, with error messages for unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from clr_jax.core.errors import UserError

T = TypeVar('T')
RENAMED = {
  '--again': '--overwrite',
  'normalise': 'normalize',
  'standardise': 'standardize',
  'to': 'target',
}
"""Current names of renamed options, for error messages."""


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
  """Returns table[name], or raises a UserError with the nearest name and all names."""
  check_name(table, name, what)
  return table[name]


def check_name(names: Iterable[str], name: str, what: str) -> None:
  """Raises a UserError unless `name` is one of `names`; `what` is its kind, such as 'model'."""
  names = list(names)
  if name not in names:
    raise UserError(f'unknown {what} {name!r}: {hint(name, names)}choose one of {listed(names)}')


def hint(name: Any, names: Iterable[str]) -> str:
  """Returns 'did you mean X? ' with the nearest name, 'use X instead; ' if renamed, or ''."""
  names = list(names)
  if (new := RENAMED.get(str(name))) in names:
    return f'use {new!r} instead; '
  close = difflib.get_close_matches(str(name), names, 1)
  if not close:  # such as 'SimCLR' and 'MoCo-v3'
    plain = {_plain(each): each for each in names}
    close = [plain[each] for each in difflib.get_close_matches(_plain(str(name)), plain, 1)]
  return f'did you mean {close[0]!r}? ' if close else ''


def _plain(name: str) -> str:
  return name.lower().replace('-', '_')


def listed(names: Iterable[str]) -> str:
  """Joins names by commas."""
  return ', '.join(names) or 'none'
