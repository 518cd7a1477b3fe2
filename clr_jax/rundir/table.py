"""Table of results for the terminal: one row per number, averaged over draws."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from clr_jax.core.intervals import Interval, interval

_NOT_SHARED = ('value', 'seconds', 'time', 'params', 'arrays', 'cores')
_OUTCOMES = ('draw', 'iterations', 'epoch')  # params that may differ between draws
# Redundant with 'epsilon', 'attack' and 'label_fraction'.
_NEVER_SHOWN = ('epsilons', 'norm', 'num_labels')
_ALWAYS_SHOWN = ('label_fraction', 'k', 'temperature', 'solver')
_COLUMNS = 100  # of a terminal
_HEADER = ('protocol', 'params', 'features', 'metric', 'value', 'step')


class Row(NamedTuple):
  """A measured number, perhaps averaged over several draws.

  Attributes:
    protocol, features, metric: as in `clr_jax.rundir.results.Measurement`.
    params: short text of the params that distinguish the rows.
    value: mean and interval over the draws.
    first: record of the first draw.
  """

  protocol: str
  params: str
  features: str
  metric: str
  value: Interval
  first: Mapping[str, Any]


def format_table(records: Iterable[Mapping[str, Any]]) -> str:
  """Formats aligned columns: protocol, short params, features, metric, value, step.

  Records that differ only in the draw form one row: mean +- half the 95 % interval (Student's t
  over the draws). Of several records with the same draw, the last counts. The usual params are
  shown, and those that differ between rows of a protocol. If the data (or the runs, a field 'run')
  differ, additional columns show them. Long params continue on further lines, so that a table has
  at most 100 columns.
  """
  return aligned(_continued(table_rows(records)))


def aligned(lines: Sequence[Sequence[str]]) -> str:
  """Formats cells as columns of text."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
    '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    for line in lines
  )


def _continued(lines: Sequence[Sequence[str]]) -> list[Sequence[str]]:
  """The lines, of which long ones have the rest of their params on lines of their own."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  column = _HEADER.index('params')
  room = _COLUMNS - sum(widths) - 2 * (len(widths) - 1) + widths[column]
  continued: list[Sequence[str]] = []
  for line in lines:
    own = textwrap.wrap(line[column], max(room, 20), break_long_words=False) or ['']
    continued.append((*line[:column], own[0], *line[column + 1 :]))
    empty = ('',) * len(line)
    continued += [(*empty[:column], more, *empty[column + 1 :]) for more in own[1:]]
  return continued


def table_rows(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
  """Cells of `format_table`, starting with the header."""
  rows = averaged(records)
  more = [k for k in ('data', 'run') if len({row.first.get(k) for row in rows}) > 1]
  lines: list[tuple[str, ...]] = [(*_HEADER, *more)]
  for row in rows:
    further = (str(row.first.get(k, '')) for k in more)
    step = str(row.first['step'])
    lines.append((*row[:4], interval_text(row.value, row.metric), step, *further))
  return lines


def averaged(records: Iterable[Mapping[str, Any]]) -> list[Row]:
  """Rows of `format_table` as numbers."""
  groups: dict[str, dict[str, Mapping[str, Any]]] = {}
  for record in records:
    shared = {k: v for k, v in record.items() if k not in _NOT_SHARED}
    key = json.dumps([shared, settings(record['params'])], sort_keys=True)
    groups.setdefault(key, {})[json.dumps(record['params'].get('draw'))] = record
  rows = []
  for draws in groups.values():
    values = list(draws.values())
    rows.append((values[0], interval([r['value'] for r in values])))
  peers: dict[str, list[dict[str, Any]]] = {}
  for first, _ in rows:
    peers.setdefault(first['protocol'], []).append(settings(first['params']))
  return [
    Row(
      first['protocol'],
      _short(settings(first['params']), peers[first['protocol']]),
      first['features'],
      first['metric'],
      value,
      first,
    )
    for first, value in rows
  ]


def settings(params: Mapping[str, Any]) -> dict[str, Any]:
  """Removes params that depend on the draw: its number, iterations, chosen hyper-parameters.

  `k_asked` stays only where the set of features is smaller than that.
  """
  left_out = {k.removesuffix('_chosen_by') for k in params if k.endswith('_chosen_by')}
  if params.get('k_asked') == params.get('k'):
    left_out.add('k_asked')
  return {k: v for k, v in params.items() if k not in left_out and k not in _OUTCOMES}


def _short(params: Mapping[str, Any], peers: list[dict[str, Any]]) -> str:
  def differs(key: str) -> bool:
    return key not in _NEVER_SHOWN and any(p.get(key, params[key]) != params[key] for p in peers)

  shown = [k for k in params if k in _ALWAYS_SHOWN or differs(k)]
  return ' '.join(f'{k}={_text(params[k])}' for k in shown)


def _text(value: Any) -> str:
  return f'{value:g}' if isinstance(value, float) else str(value)


def is_accuracy(metric: str) -> bool:
  """True if the values of a metric are fractions of images, shown in percent."""
  return metric.endswith(('top1', 'top5'))


def interval_text(value: Interval, metric: str) -> str:
  """Formats '95.36 +- 0.50 % (n=10)', or the value of one draw; percent for accuracies only."""
  percent = is_accuracy(metric)
  unit, mark = (100, ' %') if percent else (1, '')
  digits = 2 if percent or abs(value.mean) > 1 else 4
  mean, half = (f'{unit * part:.{digits}f}' for part in value[:2])
  return f'{mean}{mark}' if value.n == 1 else f'{mean} +- {half}{mark} (n={value.n})'
