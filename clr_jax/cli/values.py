"""Types of option values for argparse, with remedies in their errors."""

from __future__ import annotations

import argparse
import contextlib
import functools
import re

from clr_jax.cli.sweep.grid import Axis, read_axis


def _whole(text: str, least: int) -> int:
  if not re.fullmatch(r'[0-9]{1,10}', text) or not least <= int(text) < 2**31:
    raise argparse.ArgumentTypeError(
      f'={text}: give a whole number of at least {least} and of at most {2**31 - 1}'
    )
  return int(text)


from_one = functools.partial(_whole, least=1)
from_zero = functools.partial(_whole, least=0)


def three_counts(text: str) -> tuple[int, ...]:
  """Checks TRAIN,TEST,CLASSES."""
  with contextlib.suppress(argparse.ArgumentTypeError):
    parts = tuple(map(from_one, text.split(',')))
    if len(parts) == 3 and 2 <= parts[2] <= parts[0]:
      return parts
  raise argparse.ArgumentTypeError(
    f'={text}: give TRAIN,TEST,CLASSES, whole numbers of at least 1, with 2 to TRAIN classes, as '
    f'in 50000,10000,10'
  )


def address(text: str) -> str:
  """Checks HOST:PORT."""
  match = re.fullmatch(r'\S+:([0-9]{1,5})', text)
  if match is None or not 0 < int(match[1]) < 2**16:
    raise argparse.ArgumentTypeError(f'={text}: give HOST:PORT, the port from 1 to {2**16 - 1}')
  return text


def axis(text: str) -> Axis:
  """Checks config.KEY=VALUE,VALUE, see `read_axis`."""
  found = read_axis(text)
  if found is None:
    raise argparse.ArgumentTypeError(
      f'={text}: give config.KEY=VALUE,VALUE,..., or config.A+config.B=A1+B1,A2+B2,...'
    )
  return found


def _path(text: str, kind: str) -> str:
  if not text.strip():
    raise argparse.ArgumentTypeError(f'={text}: give the path of a {kind}')
  return text


folder = functools.partial(_path, kind='folder')
file = functools.partial(_path, kind='file')
