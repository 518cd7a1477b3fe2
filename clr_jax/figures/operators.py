"""The operators of an augmentation policy on images, without a trained run.

Figure 1 of the report shows the additional operators, blur and noise, likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from clr_jax import augment
from clr_jax.augment import Canvas, Policy, Views, policies
from clr_jax.augment.operators import Operator, operators_of
from clr_jax.core.bounds import Pictures, Seed
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError, about
from clr_jax.core.programs import host_jit
from clr_jax.data import Loaded
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import check_config
from clr_jax.experiment.sources import open_source
from clr_jax.figures.analysis.networks import random_rows
from clr_jax.figures.drawing.data import (
  Axis,
  Block,
  Cell,
  FigureData,
  Figures,
  Mosaic,
  Panel,
  Table,
)
from clr_jax.rundir.reader import Run

_COLUMNS = 3  # panels in a row
_WIDTH = 3.4  # inches of a panel
_MOST_LETTERS = 44  # of an option's value in a note
_NO_AXIS = Axis('')


def operators(
  runs: Sequence[Run] = (),
  *,
  config: str = 'quickstart',
  data: str | None = None,
  num_images: Pictures = 8,
  seed: Seed = 0,
) -> Figures:
  """Draws a panel for each operator of a policy, applied alone and to every image.

  The first panel shows the images, the last one the whole policy. Views of different policies have
  a figure each.

  Args:
    runs: runs whose policies are drawn; () = that of `config`.
    config: config file, FILE or FILE:ARG, if there are no runs.
    data: data set in place of the config's.
    num_images: images of a panel.
    seed: RNG seed of the selection of images and of the operators.

  Raises:
    UserError: `config` or `data` cannot be read.
  """
  settings = {run.name: run.config for run in runs} or {config: load(config)}
  figures, missing = [], []
  for name, own in settings.items():
    try:
      found, index = _open(own, data, num_images, seed)
      views = augment.make(**to_dict(own.augment))
    except UserError as error:
      if not runs:
        raise
      missing.append(f'{name}: {error}')
      continue
    for view, policy in _policies(views).items():
      parts = [name if len(settings) > 1 else '', view]
      figures.append(_figure('-'.join(filter(None, parts)), policy, found, index, own, seed))
  return Figures(figures, missing)


def _open(config: Config, name: str | None, count: int, seed: int) -> tuple[Loaded, np.ndarray]:
  """Images of the training set, and their indices."""
  check_config(config)
  keys = {'--params.data': name} if name else {'data__name': config.data.name}
  with about(**keys):
    source = open_source(config, name or config.data.name, config.data.train_split)
  index = random_rows(source.num_examples, count, seed)
  return source.load_whole(index), index


def _policies(views: Views) -> dict[str, Policy]:
  """Different policies of the views by name; '' for the only one."""
  made_by = {
    **{f'view {i}': policy for i, policy in enumerate(views.policies, 1)},
    **{f'crop {i}': policy for i, policy in enumerate(views.local_policies, 1)},
  }
  found: dict[str, Policy] = {}
  for name, policy in made_by.items():
    # Partial functions are equal only to themselves, but print alike.
    if repr(policy) not in map(repr, found.values()):
      found[name] = policy
  return found if len(found) > 1 else dict(zip([''], found.values(), strict=True))


def _figure(
  name: str, policy: Policy, found: Loaded, index: np.ndarray, config: Config, seed: int
) -> FigureData:
  size = config.augment.size
  images, _, extent = found
  given: Any = augment.to_float(images) if extent is None else Canvas(images, extent)
  key = jax.random.key(seed)
  base = _applied(policies.none(size=size), key, given)

  def panels() -> Iterator[Panel]:
    yield _panel('images', base, f'{size} x {size} pixels')
    for number, operator in enumerate(operators_of(policy)):
      own = given if operator.takes_whole else base
      made = _applied(operator.apply, jax.random.fold_in(key, number), own)
      yield _panel(operator.name, made, _note(operator))
    yield _panel('all together', _applied(policy, key, given), config.augment.name)

  drawn = list(panels())
  # The last row has the fewest empty places.
  columns = min(_COLUMNS, _COLUMNS + 1, key=lambda count: -len(drawn) % count)
  rows = -(-len(index) // _columns(len(index)))
  block = Block(drawn, columns, (_WIDTH, _WIDTH * rows / _columns(len(index)) + 0.75))
  numbers = [
    (operator.name, operator.probability, str(dict(operator.options)))
    for operator in operators_of(policy)
  ]
  tables = {'': Table(('operator', 'probability', 'options'), numbers)}
  return FigureData(name.replace(' ', '-'), [block], tables)


def _applied(policy: Policy, key: Any, images: Any) -> np.ndarray:
  """Runs a policy as one program."""
  return np.asarray(host_jit(lambda key, images: policy(key, images))(key, images))


def _columns(count: int) -> int:
  """Images side by side in a panel that is wider than high."""
  return count if count <= 4 else round((2 * count) ** 0.5)


def _panel(title: str, images: Any, note: str) -> Panel:
  pixels = np.clip(np.asarray(images), 0, 1)
  wide = _columns(len(pixels))
  cells = [Cell(i // wide, i % wide, image) for i, image in enumerate(pixels)]
  return Panel(title, _NO_AXIS, _NO_AXIS, [Mosaic(cells)], note)


def _note(operator: Operator) -> str:
  """Options of an operator in a line or two."""
  shown: Mapping[str, Any] = {
    key: value
    for key, value in operator.options.items()
    if value is not None and key != 'size' and len(str(value)) <= _MOST_LETTERS
  }
  told = [f'{key} {_plain(value)}' for key, value in shown.items()]
  chance = f'of {operator.probability:.0%} of the images' if operator.probability < 1 else ''
  lines, line = [], ''
  for part in filter(None, (*told, chance)):
    if line and len(line) + len(part) > _MOST_LETTERS:
      lines.append(line)
      line = ''
    line = f'{line}, {part}' if line else part
  return '\n'.join([*lines, line])


def _plain(value: Any) -> str:
  if isinstance(value, tuple | list):
    return f'({", ".join(map(_plain, value))})'
  return f'{value:.3g}' if isinstance(value, float) else str(value)
