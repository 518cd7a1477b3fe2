"""The runs of a sweep: every combination of configs, values of keys, and seeds."""

from __future__ import annotations

import hashlib
import itertools
import math
import pathlib
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from clr_jax.cli.overrides import Given
from clr_jax.core.errors import UserError

T = TypeVar('T')
_PREFIX = 'config.'
_TOGETHER = '+'
_MOST_LETTERS = 40  # of a value in the name of a run
_MOST_RUNS = 10_000  # each is checked before the first one starts
_LONGEST_NAME = 200  # file systems allow 255 bytes
_OPENING, _CLOSING = '([{', ')]}'


class Axis(NamedTuple):
  """Config keys that change together, mostly one.

  Attributes:
    keys: the keys.
    values: texts of the values of all keys, for each place on the axis.
  """

  keys: tuple[str, ...]
  values: tuple[tuple[str, ...], ...]


class PlannedRun(NamedTuple):
  """A run of a sweep.

  Attributes:
    name: name of its workdir in the folder of the sweep.
    spec: config file, as in --config=FILE:ARG.
    given: values of its config keys, including the seed.
  """

  name: str
  spec: str
  given: Given

  def arguments(self, folder: str, imports: Sequence[str]) -> list[str]:
    """Arguments of `clr-jax` that train the run in the folder."""
    flags = [f'--imports={name}' for name in imports]
    for key, value in self.given:
      no = 'no' if value is False else ''
      flags.append(f'--{no}config.{key}' + (f'={value}' if isinstance(value, str) else ''))
    return ['train', f'--config={self.spec}', *flags, f'--workdir={folder}/{self.name}']


def command(arguments: Sequence[str]) -> str:
  """One line for a shell."""
  return shlex.join(['clr-jax', *arguments])


def read_axis(text: str) -> Axis | None:
  """Reads config.KEY=VALUE,VALUE; None for text of another form.

  Commas inside of brackets or quotes belong to a value: 'config.augment.crop_scale=(0.2,1),(0.5,1)'
  has two. Keys joined by + change together: 'config.batch_size+config.optimizer.learning_rate=
  32+0.1,64+0.2'.
  """
  left, separator, right = text.partition('=')
  keys = left.split(_TOGETHER)
  if not separator or not all(key.startswith(_PREFIX) and key != _PREFIX for key in keys):
    return None
  values = [tuple(v.split(_TOGETHER)) if len(keys) > 1 else (v,) for v in _split(right)]
  if any(len(value) != len(keys) for value in values):
    return None
  return Axis(tuple(key.removeprefix(_PREFIX) for key in keys), tuple(values))


def _split(text: str) -> list[str]:
  parts, depth, quote = [''], 0, ''
  for letter in text:
    if quote:
      quote = '' if letter == quote else quote
    elif letter in '\'"':
      quote = letter
    depth += (letter in _OPENING) - (letter in _CLOSING) if not quote else 0
    if letter == ',' and not quote and depth <= 0:
      parts.append('')
    else:
      parts[-1] += letter
  return [part.strip() for part in parts]


def check_axes(axes: Sequence[Axis], fixed: Given) -> None:
  """Raises a UserError for keys or values that are given twice, and for seeds."""
  for keys, values in axes:
    if (twice := _repeated(values)) is not None:
      raise UserError(
        f'--grid config.{keys[0]} has the value {_TOGETHER.join(twice)!r} twice: leave one out'
      )
  keys = [key for axis in axes for key in axis.keys]
  for key in keys:
    if key == 'seed':
      raise UserError('--grid config.seed: give the number of seeds by --seeds=N')
    if keys.count(key) > 1:
      raise UserError(f'--grid config.{key} is given twice: give all of its values in one --grid')
    if key in [name for name, _ in fixed]:
      raise UserError(f'config.{key} is in --grid: leave --config.{key} out')


def _repeated(values: Sequence[T]) -> T | None:
  """The first value that is there again, if any."""
  return next((value for value, count in Counter(values).items() if count > 1), None)


def plan(
  specs: Sequence[str], axes: Sequence[Axis], fixed: Given, seeds: Sequence[int]
) -> list[PlannedRun]:
  """Lists all runs: seeds vary fastest, then the last key.

  Args:
    specs: config files.
    axes: keys with several values.
    fixed: values of keys that are the same in all runs.
    seeds: RNG seeds.

  Raises:
    UserError: too many runs, or config files of the same name.
  """
  if (twice := _repeated([_short(spec) for spec in specs])) is not None:
    same = [f'--config={spec}' for spec in specs if _short(spec) == twice]
    raise UserError(
      f'{" and ".join(same)} would have the same workdirs: leave one out, or rename its file'
    )
  count = math.prod([len(specs), len(seeds), *(len(axis.values) for axis in axes)])
  if count > _MOST_RUNS:
    raise UserError(
      f'the sweep has {count:,} runs and may have {_MOST_RUNS:,}: give fewer values or --seeds'
    )
  others: Given = [(key, value) for key, value in fixed if key != 'seed']
  points = itertools.product(specs, itertools.product(*(axis.values for axis in axes)), seeds)
  runs = []
  for spec, values, seed in points:
    own = [
      pair
      for axis, texts in zip(axes, values, strict=True)
      for pair in zip(axis.keys, texts, strict=True)
    ]
    parts = [_label(_short(spec))] * (len(specs) > 1)
    parts += [f'{key}={_label(value)}' for key, value in own]
    name = '-'.join(filter(None, (_shortened('-'.join(parts)), f'seed={seed}')))
    runs.append(PlannedRun(name, spec, [*others, *own, ('seed', str(seed))]))
  return runs


def _short(spec: str) -> str:
  """Name of a config file and its argument."""
  path, _, argument = spec.partition(':')
  return '-'.join(filter(None, (pathlib.PurePath(path).stem, argument)))


def _label(text: str) -> str:
  """Text for a file name, with a digest if letters had to be replaced."""
  plain = re.sub(r'[^\w.=+-]+', '_', text, flags=re.ASCII).strip('_')
  return plain if plain == text and len(text) <= _MOST_LETTERS else _cut(plain, text, _MOST_LETTERS)


def _shortened(name: str) -> str:
  return name if len(name) <= _LONGEST_NAME else _cut(name, name, _LONGEST_NAME)


def _cut(plain: str, text: str, most: int) -> str:
  return f'{plain[:most]}_{hashlib.sha256(text.encode()).hexdigest()[:6]}'
