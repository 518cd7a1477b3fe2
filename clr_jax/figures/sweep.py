"""Final accuracy against the config keys in which runs differ, with intervals over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from clr_jax.core.config_tree import check_keys
from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name, listed
from clr_jax.figures.accuracy import condition, is_last
from clr_jax.figures.analysis.seed_groups import Group, differing_keys, group_results, seed_groups
from clr_jax.figures.drawing.data import (
  Axis,
  Block,
  FigureData,
  Figures,
  Grid,
  Line,
  Panel,
  Table,
  finite_range,
)
from clr_jax.figures.drawing.metric_panels import PERCENT, accuracy_limits
from clr_jax.rundir import table
from clr_jax.rundir.reader import Run
from clr_jax.rundir.results import FeaturesOf
from clr_jax.rundir.table import Row

_METRIC = 'top1'
_UNSET = 'unset'
Values = Mapping[str, str]  # {name of a group: value of a key as JSON, or 'unset'}


class _Measured(NamedTuple):
  """Rows of the groups of runs, and the keys that tell the groups apart.

  Attributes:
    rows: {(condition, name of a group): row}.
    keys: {dotted key: its values}, for all keys that differ.
    by: key of the x axis; '' if the groups differ in none.
    lines: keys whose values name the lines.
    metric: metric of the rows.
  """

  rows: Mapping[tuple[str, str], Row]
  keys: Mapping[str, Values]
  by: str
  lines: tuple[str, ...]
  metric: str

  @property
  def groups(self) -> list[str]:
    """Names of the groups in the order of the runs."""
    return list(dict.fromkeys(group for _, group in self.rows))

  @property
  def conditions(self) -> list[str]:
    """Measured protocols and shares of labels."""
    return list(dict.fromkeys(name for name, _ in self.rows))

  def places(self, key: str) -> list[str]:
    """Distinct values of a key: numbers in ascending order, then texts."""
    values = self.keys[key].values() if key else ['']
    return sorted(dict.fromkeys(values), key=_order)

  def line(self, group: str) -> str:
    """Name of the line of a group."""
    told = {key: self.keys[key][group] for key in self.lines}
    return ', '.join(_said(key, value) for key, value in told.items() if value != _UNSET)

  def at(self, group: str) -> str:
    """Value of a group on the x axis."""
    return self.keys[self.by][group] if self.by else ''

  def scaled(self, value: float) -> float:
    """Value of the metric in the unit of the axis."""
    return 100 * value if table.is_accuracy(self.metric) else value

  @property
  def label(self) -> str:
    """Label of the metric with the unit."""
    if self.metric == _METRIC:
      return PERCENT
    return f'{self.metric}, %' if table.is_accuracy(self.metric) else self.metric


def sweep(
  runs: Sequence[Run],
  *,
  by: str | None = None,
  lines: tuple[str, ...] = (),
  kind: Literal['lines', 'map'] = 'lines',
  metric: str = _METRIC,
  features: FeaturesOf = 'trained',
) -> Figures:
  """Draws the results of each run's newest step against a config key, a panel for each protocol.

  Runs that differ only in the seed are one point: their mean with its 95 % interval (Student's t
  over the runs). The values of the key are evenly spaced, in order.

  Args:
    runs: runs that differ in some keys of their configs, as those of `clr-jax sweep` do.
    by: config key of the x axis, such as 'method.k1'; None = the differing key with the most
      values.
    lines: config keys with a line for each of their values; () = as few as tell the runs apart.
    kind: 'lines', or 'map' for colors over `by` and one other key.
    metric: metric of the results: 'top1', 'robust_top1', ...
    features: kind of features: 'trained', 'untrained' or 'pixels'.

  Raises:
    UserError: an unknown key or metric, a key that does not differ, keys that do not tell the runs
      apart, or a map of other than two keys.
  """
  groups = seed_groups(runs)
  rows = table.averaged(r for r in group_results(groups) if r['features'] == features)
  known = list(dict.fromkeys(row.metric for row in rows))
  if known and metric != _METRIC:  # the default may be missing
    check_name(known, metric, 'metric of the results')
  own = [row for row in rows if row.metric == metric and is_last(row.first)]
  missing = [
    f'{run.name} has no {metric} of {features} features: first run clr-jax evaluate'
    for run in runs
    if not any(r['metric'] == metric and r['features'] == features for r in run.results)
  ]
  if not own:
    return Figures([], missing)
  named = {row.first['run'] for row in own}
  keys = _differing([group for group in groups if group.name in named])
  found = {(condition(row), row.first['run']): row for row in own}
  chosen = _chosen(runs[0], keys, by, tuple(lines), named)
  measured = _Measured(found, keys, *chosen, metric)
  panels = _map_panels(measured) if kind == 'map' else _line_panels(measured)
  block = Block(panels, 3, (4.6, 3.4))
  figure = FigureData('', [block], {'': _table(measured)})
  return Figures([figure], missing, _text(measured))


# ---------------------------------------------------------------- keys
def _differing(groups: Sequence[Group]) -> dict[str, Values]:
  """Differing keys with their values in each group."""
  names = [group.name for group in groups]
  firsts = [group.runs[0] for group in groups]
  return {key: dict(zip(names, values, strict=True)) for key, values in differing_keys(firsts)}


def _chosen(
  run: Run, keys: Mapping[str, Values], by: str | None, lines: tuple[str, ...], groups: set[str]
) -> tuple[str, tuple[str, ...]]:
  """The key of the x axis, and those of the lines."""
  for option, key in (('by', by), *(('lines', key) for key in lines)):
    if key is not None and key not in keys:
      check_keys(run.config, [key], f'--params.{option}=')
      raise UserError(
        f'--params.{option}={key} is the same in all runs: give a key in which they differ '
        f'({listed(keys)})'
      )
  if by is None:
    free = [key for key in keys if key not in lines]
    by = max(free, key=lambda key: len(set(keys[key].values())), default='')
  fixed = bool(lines)
  # The name of a method tells more than one of its options; a key with few values gives few lines.
  others = sorted(keys, key=lambda k: (not k.endswith('name'), len(set(keys[k].values()))))
  for key in () if fixed else others:
    if key != by and _parts(keys, (by, *lines, key)) > _parts(keys, (by, *lines)):
      lines = (*lines, key)
  if by and _parts(keys, (by, *lines)) < len(groups):
    left = [key for key in keys if _parts(keys, (by, *lines, key)) > _parts(keys, (by, *lines))]
    raise UserError(
      f'--params.lines={",".join(lines)}: runs of one line and one value of {by} differ in '
      f'{listed(left)}: name these keys, too'
    )
  return by, lines


def _parts(keys: Mapping[str, Values], chosen: Sequence[str]) -> int:
  """Number of groups of runs that the chosen keys tell apart."""
  columns = [keys[key].values() for key in chosen if key]
  return len(set(zip(*columns, strict=True))) if columns else 1


def _order(value: str) -> tuple[bool, float, str]:
  plain = json.loads(value) if value not in ('', _UNSET) else value
  number = isinstance(plain, int | float)
  return not number, float(plain) if number else 0.0, value


def _shown(value: str) -> str:
  """Value of a key for readers, from JSON."""
  if value in ('', _UNSET):
    return value
  plain = json.loads(value)
  if isinstance(plain, list):
    return f'({", ".join(_shown(json.dumps(each)) for each in plain)})'
  return f'{plain:.4g}' if isinstance(plain, float) else str(plain)


def _said(key: str, value: str) -> str:
  name = key.rpartition('.')[2]
  return _shown(value) if name == 'name' else f'{name} {_shown(value)}'


# ---------------------------------------------------------------- panels
def _axis(measured: _Measured, key: str) -> Axis:
  places = measured.places(key)
  ticks = {i: _shown(value) for i, value in enumerate(places)}
  return Axis(key, limits=(-0.5, len(places) - 0.5), ticks=ticks)


def _line_panels(measured: _Measured) -> list[Panel]:
  places = measured.places(measured.by)
  names = list(dict.fromkeys(map(measured.line, measured.groups)))
  apart = min(0.06, 0.6 / len(names))
  panels = []
  for name in measured.conditions:
    marks = []
    for look, line in enumerate(names):
      points = sorted(
        (places.index(measured.at(group)), row.value)
        for (c, group), row in measured.rows.items()
        if c == name and measured.line(group) == line
      )
      means = [measured.scaled(value.mean) for _, value in points]
      halves = [measured.scaled(value.half) for _, value in points]
      # Aside, else intervals hide one another.
      x = [place + apart * (look - (len(names) - 1) / 2) for place, _ in points]
      marks += [Line(line, look, x, means, y_half=halves)] * bool(points)
    counts = sorted({row.value.n for (c, _), row in measured.rows.items() if c == name})
    limits = accuracy_limits(marks) if table.is_accuracy(measured.metric) else None
    y = Axis(measured.label, limits=limits)
    panels.append(Panel(name, _axis(measured, measured.by), y, marks, _seeds(counts)))
  return panels


def _seeds(counts: Sequence[int]) -> str:
  several = ' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
  return 'one seed' if several == '1' else f'mean and 95 % interval over {several} seeds'


def _map_panels(measured: _Measured) -> list[Panel]:
  if len(measured.lines) != 1 or not measured.by:
    raise UserError(
      f'--params.kind=map needs two keys, not {listed((measured.by, *measured.lines))}: choose '
      f'them by --params.by and --params.lines'
    )
  (other,) = measured.lines
  columns, rows = measured.places(measured.by), measured.places(other)
  x, y = (np.arange(len(places) + 1) - 0.5 for places in (columns, rows))
  grids = {}
  for name in measured.conditions:
    z = np.full([len(rows), len(columns)], np.nan)
    texts = [[''] * len(columns) for _ in rows]
    for (c, group), row in measured.rows.items():
      if c == name:
        i, j = rows.index(measured.keys[other][group]), columns.index(measured.at(group))
        z[i, j] = measured.scaled(row.value.mean)
        half = f'\n±{measured.scaled(row.value.half):.2g}' if row.value.n > 1 else ''
        texts[i][j] = f'{z[i, j]:.4g}{half}'
    grids[name] = z, texts
  return [
    Panel(
      name,
      _axis(measured, measured.by),
      _axis(measured, other),
      [Grid(x, y, z, measured.label, finite_range([z], (0.0, 1.0)), numbers=texts)],
    )
    for name, (z, texts) in grids.items()
  ]


# ---------------------------------------------------------------- numbers
def _table(measured: _Measured) -> Table:
  """Table of all differing keys and the numbers of each point."""
  header = ('condition', *measured.keys, f'{measured.metric}_mean', 'half_interval_95', 'runs')
  rows = [
    (name, *(_shown(values[group]) for values in measured.keys.values()), *row.value)
    for (name, group), row in measured.rows.items()
  ]
  return Table(header, rows)


def _text(measured: _Measured) -> str:
  """Table for the terminal: a line per point, a column per condition."""
  shown = [key for key in (measured.by, *measured.lines) if key]
  conditions = measured.conditions
  lines: list[tuple[Any, ...]] = [(*shown, *conditions)]
  order = {key: measured.places(key) for key in shown}
  groups = sorted(
    measured.groups, key=lambda g: [order[k].index(measured.keys[k][g]) for k in reversed(shown)]
  )
  for group in groups:
    keys = (_shown(measured.keys[key][group]) for key in shown)
    found = (measured.rows.get((name, group)) for name in conditions)
    values = ('' if r is None else table.interval_text(r.value, measured.metric) for r in found)
    lines.append((*keys, *values))
  return table.aligned(lines)
