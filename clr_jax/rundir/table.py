"""Results as a table for the terminal: one row per number, draws averaged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from clr_jax.core.intervals import Interval, interval

_NOT_SHARED = ('value', 'seconds', 'time', 'params', 'arrays')
_OUTCOMES = ('draw', 'iterations', 'epoch')  # params that may differ from draw to draw
_NEVER_SHOWN = ('epsilons', 'norm')  # told by 'epsilon' and 'attack'
_ALWAYS_SHOWN = ('label_fraction', 'k', 'temperature', 'solver')
_HEADER = ('protocol', 'params', 'features', 'metric', 'value', 'step')


class Row(NamedTuple):
  """A number that was measured, perhaps in several draws.

  Attributes:
    protocol, features, metric: as in `clr_jax.rundir.results.Measurement`.
    params: in short, what tells the rows apart.
    value: over the draws.
    first: the record of the first draw.
  """

  protocol: str
  params: str
  features: str
  metric: str
  value: Interval
  first: Mapping[str, Any]


def format_table(records: Iterable[Mapping[str, Any]]) -> str:
  """Aligned columns: protocol, params in short, features, metric, value, step.

  Records that share everything but the draw make one row: mean +- half the 95 % interval (Student's
  t over the draws). Of records that share the draw too, the last one counts. Of the params, the
  usual ones are shown, and those in which the rows of a protocol that have them differ. Where the
  data (or the runs, a field 'run') differ, further columns name them.
  """
  return aligned(table_rows(records))


def aligned(lines: Sequence[Sequence[str]]) -> str:
  """Cells as columns of text."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
    '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    for line in lines
  )


def table_rows(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
  """The cells of `format_table`, the header first."""
  rows = averaged(records)
  more = [k for k in ('data', 'run') if len({row.first.get(k) for row in rows}) > 1]
  lines: list[tuple[str, ...]] = [(*_HEADER, *more)]
  for row in rows:
    further = (str(row.first.get(k, '')) for k in more)
    step = str(row.first['step'])
    lines.append((*row[:4], interval_text(row.value, row.metric), step, *further))
  return lines


def averaged(records: Iterable[Mapping[str, Any]]) -> list[Row]:
  """The rows of `format_table` as numbers."""
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
  """Without what a draw brings about: its number, iterations, a hyper-parameter chosen in it."""
  chosen = {k.removesuffix('_chosen_by') for k in params if k.endswith('_chosen_by')}
  return {k: v for k, v in params.items() if k not in chosen and k not in _OUTCOMES}


def _short(params: Mapping[str, Any], peers: list[dict[str, Any]]) -> str:
  def differs(key: str) -> bool:
    return key not in _NEVER_SHOWN and any(p.get(key, params[key]) != params[key] for p in peers)

  shown = [k for k in params if k in _ALWAYS_SHOWN or differs(k)]
  return ' '.join(f'{k}={_text(params[k])}' for k in shown)


def _text(value: Any) -> str:
  return f'{value:g}' if isinstance(value, float) else str(value)


def is_accuracy(metric: str) -> bool:
  """Whether the values of a metric are shares of images that are shown in percent."""
  return metric.endswith(('top1', 'top5'))


def interval_text(value: Interval, metric: str) -> str:
  """'95.36 +- 0.50 % (n=10)', or the value where there is one draw; percent of accuracies only."""
  percent = is_accuracy(metric)
  unit, mark = (100, ' %') if percent else (1, '')
  digits = 2 if percent or abs(value.mean) > 1 else 4
  mean, half = (f'{unit * part:.{digits}f}' for part in value[:2])
  return f'{mean}{mark}' if value.n == 1 else f'{mean} +- {half}{mark} (n={value.n})'
