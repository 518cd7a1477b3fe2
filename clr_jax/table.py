"""Results as a table for the terminal: one row per number, draws averaged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.special import stdtrit

_NOT_SHARED = ('value', 'seconds', 'time', 'params', 'arrays')
_OUTCOMES = ('draw', 'iterations', 'epoch')  # params that may differ from draw to draw
_NEVER_SHOWN = ('epsilons', 'norm')  # told by 'epsilon' and 'attack'
_ALWAYS_SHOWN = ('label_fraction', 'k', 'temperature', 'solver')
_HEADER = ('protocol', 'params', 'features', 'metric', 'value', 'step')


def format_table(records: Iterable[Mapping[str, Any]]) -> str:
  """Aligned columns: protocol, params in short, features, metric, value, step.

  Records that share everything but the draw make one row: mean +- half the 95 % interval (Student's
  t over the draws). Of records that share the draw too, the last one counts. Of the params, the
  usual ones are shown, and those in which the rows of a protocol that have them differ. Where the
  data (or the runs, a field 'run') differ, further columns name them.
  """
  groups: dict[str, dict[str, Mapping[str, Any]]] = {}
  for record in records:
    shared = {k: v for k, v in record.items() if k not in _NOT_SHARED}
    key = json.dumps([shared, _settings(record['params'])], sort_keys=True)
    groups.setdefault(key, {})[json.dumps(record['params'].get('draw'))] = record
  rows = [list(draws.values()) for draws in groups.values()]
  more = [k for k in ('data', 'run') if len({draws[0].get(k) for draws in rows}) > 1]
  lines: list[tuple[str, ...]] = [(*_HEADER, *more)]
  for draws in rows:
    first = draws[0]
    peers = [_settings(r[0]['params']) for r in rows if r[0]['protocol'] == first['protocol']]
    lines.append(
      (
        first['protocol'],
        _short(_settings(first['params']), peers),
        first['features'],
        first['metric'],
        _interval([r['value'] for r in draws]),
        str(first['step']),
        *(str(first.get(k, '')) for k in more),
      )
    )
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
    '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    for line in lines
  )


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
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


def _interval(values: list[float]) -> str:
  mean = float(np.mean(values))
  digits = 2 if abs(mean) > 1 else 4
  if len(values) == 1:
    return f'{mean:.{digits}f}'
  n = len(values)
  half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(n))
  return f'{mean:.{digits}f} +- {half:.{digits}f} (n={n})'
