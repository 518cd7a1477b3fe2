"""Reader of the rows that `metrics.MetricWriter` writes."""

from __future__ import annotations

import re
from typing import Any

from absl import logging
from etils import epath

from clr_jax.core.storage import files_in, first_line, read_file
from clr_jax.rundir.codec import number, read_object
from clr_jax.rundir.workdir import Workdir

_SEGMENT = re.compile(r'(\d{20})-step(\d{12})\.jsonl')


def read_metrics(workdir: Workdir) -> list[dict[str, Any]]:
  """Reads the rows of all segments, sorted by step, one per step, with non-finite floats.

  A segment that starts at step s replaces the rows of earlier segments beyond s (a killed run had
  gone further than the checkpoint from which it resumed). Rows of one step (training, evaluation)
  are merged; the later value of a name counts. A damaged line is skipped with a warning.

  Raises:
    UserError: the folder cannot be read.
  """
  rows: dict[int, dict[str, Any]] = {}
  for path in files_in(workdir.metrics, '.jsonl'):
    match = _SEGMENT.fullmatch(path.name)
    if match is None:
      continue
    first_step = int(match[2])
    rows = {step: row for step, row in rows.items() if step <= first_step}
    for row in _read_segment(path):
      rows[row['step']] = {**rows.get(row['step'], {}), **row}
  return [rows[step] for step in sorted(rows)]


def _read_segment(path: epath.Path) -> list[dict[str, Any]]:
  rows, reasons = [], []
  try:
    lines = read_file(path).splitlines()
  except OSError as error:
    logging.warning('skipped the damaged rows of %s (%s)', path, error)
    return []
  for line in lines:
    try:
      row = {name: number(value) for name, value in read_object(line).items()}
      if not isinstance(row.get('step'), int):
        raise TypeError(f'its step is {row.get("step")!r:.80}')
      rows.append(row)
    except (ValueError, TypeError) as error:
      reasons.append(first_line(error))
  if reasons:
    logging.warning('skipped %d damaged rows of %s (first: %s)', len(reasons), path, reasons[0])
  return rows
