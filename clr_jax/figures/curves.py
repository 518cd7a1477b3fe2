"""Training curves of one or several runs: loss, online accuracy, collapse monitor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.figures import plots
from clr_jax.rundir import workdir
from clr_jax.rundir.identity import read_config
from clr_jax.rundir.metrics import read_metrics
from clr_jax.rundir.reader import run_name


class Panel(NamedTuple):
  """One axes of the figure; `keys` maps a metric to its legend."""

  title: str
  label: str
  keys: dict[str, str]  # metric -> legend


PANELS = (
  Panel('Loss', 'loss', {'loss': 'loss, mean over log_every steps'}),
  Panel(
    'Online accuracy',
    'top-1 accuracy',
    {
      'online_knn_top1': 'kNN, at most 1,024 test images',
      'online_probe_top1': 'online linear probe, the same images',
    },
  ),
  Panel('Collapse monitor', 'effective rank', {'rankme': 'RankMe, at most 2,048 training images'}),
)


def curves(directories: Sequence[str], out: str) -> epath.Path:
  """Draws the curves of runs into the PNG `out`, and writes the same numbers to a CSV beside it.

  Rows that a run does not have are left out of the figure.

  Returns:
    The path of the CSV file.

  Raises:
    UserError: a directory is not a run, or has no metrics yet.
  """
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  runs = {run_name(d, directories): _rows(d) for d in directories}
  figure = Figure(figsize=(4.2 * len(PANELS), 3.4), dpi=110, layout='constrained')
  axes = figure.subplots(1, len(PANELS))
  table = []
  for panel, axis in zip(PANELS, axes, strict=True):
    colour = iter(plots.COLOURS * 10)
    for name, rows in runs.items():
      for key, legend in panel.keys.items():
        points = [(r['step'], r[key]) for r in rows if isinstance(r.get(key), (int, float))]
        if not points:
          continue
        table += [(name, key, step, value) for step, value in points]
        label = legend if len(runs) == 1 else f'{name}: {legend}'
        marker = 'o' if len(points) < 40 else None
        axis.plot(*zip(*points, strict=True), color=next(colour), label=label, marker=marker, ms=3)
    axis.set(title=panel.title, xlabel='training step', ylabel=panel.label)
    axis.grid(alpha=0.3)
    if axis.lines:
      # Below the axes, where it covers no data.
      axis.legend(loc='upper center', bbox_to_anchor=(0.5, -0.2), frameon=False, fontsize=8)
  return plots.save(figure, out, ('run', 'metric', 'step', 'value'), table)


def _rows(directory: str) -> list[dict]:
  run = workdir.Workdir(directory)
  read_config(run)
  rows = read_metrics(run)
  if not rows:
    raise UserError(f'{directory} has no metrics yet: let it train for log_every steps')
  return rows
