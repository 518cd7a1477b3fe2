"""Training curves of one or several runs: loss, online accuracy, effective rank."""

from __future__ import annotations

from collections.abc import Sequence

from clr_jax.figures.drawing.data import Block, FigureData, Figures
from clr_jax.figures.drawing.metric_panels import (
  METRIC_PANELS,
  series_panels,
  series_table,
  unchanging,
)
from clr_jax.rundir.reader import Run


def curves(runs: Sequence[Run]) -> Figures:
  """Figure with a panel per kind of metric; omits runs without metrics."""
  missing = [
    f'{run.directory} has no metrics that can be read: let it train for log_every steps'
    for run in runs
    if not run.metrics
  ]
  specs = [panel for panel in METRIC_PANELS if 'curves' in panel.figures]
  left_out = unchanging(runs, specs)
  if not (panels := series_panels(runs, specs)):
    single = [f'there is no curve ({"; ".join(left_out)}): log more often, by log_every']
    return Figures([], missing + single * bool(left_out))
  missing += left_out
  block = Block(panels, 3 if len(panels) > 4 else 4, (3.4, 3.0))
  return Figures([FigureData('', [block], {'': series_table(runs, specs)})], missing)
