"""Histograms of negative and positive scores during training, from telemetry."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clr_jax.figures.drawing.data import Axis, Histograms, Panel, Table
from clr_jax.rundir.reader import Run
from clr_jax.wrappers.telemetry import PREFIX

_KINDS = {'neg': 'negative scores', 'pos': 'positive scores'}


def histogram_panels(runs: Sequence[Run], most: int) -> tuple[list[Panel], list[str]]:
  """Panels with the histograms of negative and positive scores of each run.

  A histogram counts the scores of the measured steps since the previous row.

  Args:
    runs: runs with telemetry.
    most: largest number of histograms per run, including the first and the last.

  Returns:
    The panels and a sentence for each omission.
  """
  panels, missing = [], []
  metrics = [f'{PREFIX}{kind}_hist' for kind in _KINDS]
  for run in runs:
    options = run.config.telemetry
    edges = np.linspace(options.lowest, options.highest, options.bins + 1)
    rows = [row for row in run.metrics if all(isinstance(row.get(m), list) for m in metrics)]
    kept = [row for row in rows if all(len(row[m]) == len(edges) + 1 for m in metrics)]
    if len(kept) < len(rows):
      missing.append(f'{len(rows) - len(kept)} histograms of {run.name}, which have other bins')
    if kept:
      chosen = np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int)
      kept = [kept[i] for i in np.unique(chosen)]
      steps = [row['step'] for row in kept]
      marks = [
        Histograms(name, look, edges, steps, np.array([row[metric] for row in kept]))
        for look, (metric, name) in enumerate(zip(metrics, _KINDS.values(), strict=True))
      ]
      x = Axis('score', limits=(edges[0], edges[-1]))
      y = Axis('training step', ticks={i: f'{step:,}' for i, step in enumerate(steps)})
      panels.append(Panel(run.name, x, y, marks, _outside(marks)))
  return panels, missing


def _outside(marks: Sequence[Histograms]) -> str:
  """Describes the shares of scores outside the edges."""
  cut = []
  for mark in marks:
    below, above = mark.counts[:, [0, -1]].sum(0) / max(mark.counts.sum(), 1)
    cut += [f'{mark.name} below {below:.2g}'] * bool(below)
    cut += [f'{mark.name} above {above:.2g}'] * bool(above)
  return (
    f'Share outside the edges: {", ".join(cut)}.' if cut else 'All scores are within the edges.'
  )


def histogram_table(panels: Sequence[Panel]) -> Table:
  """Table of the counts, including those outside the edges (lower -inf, upper inf)."""
  rows = []
  for panel in panels:
    for kind, mark in zip(_KINDS, panel.marks_of(Histograms), strict=True):
      bounds = [-math.inf, *mark.edges.tolist(), math.inf]
      for step, counts in zip(mark.steps, mark.counts.tolist(), strict=True):
        for lower, upper, count in zip(bounds, bounds[1:], counts, strict=False):
          rows.append((panel.title, step, kind, lower, upper, int(count)))
  return Table(('run', 'step', 'kind', 'lower', 'upper', 'count'), rows)
