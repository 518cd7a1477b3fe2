"""Ridgelines: histograms of negative and positive scores over training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from clr_jax.core.config_tree import to_dict
from clr_jax.figures import plots
from clr_jax.figures.telemetry import PREFIX, Run

_KINDS = {'neg': 'negative scores', 'pos': 'positive scores'}
_OVERLAP = 1.7  # height of a ridge in distances between ridges
_COLUMNS = 5


class Ridges(NamedTuple):
  """Attributes:
  name: of the run.
  edges: [bins + 1].
  steps: of the histograms.
  counts: kind -> [steps, bins + 2]: below, bins, above.
  """

  name: str
  edges: np.ndarray
  steps: list[int]
  counts: dict[str, np.ndarray]

  def outside(self, kind: str) -> tuple[float, float]:
    """Shares of all the scores drawn that lie below and above the edges."""
    counts = self.counts[kind]
    total = max(counts.sum(), 1)
    return counts[:, 0].sum() / total, counts[:, -1].sum() / total


def histograms(runs: Sequence[Run], path: epath.Path, *, ridges: int) -> list[epath.Path]:
  """One column a run; the CSV has run, step, kind, lower, upper, count.

  A ridge is the histogram of the measured steps since the row before, scaled to its own maximum:
  the CSV has the counts, also those outside of the edges (lower -inf, upper inf).

  Returns:
    [] if no run has histograms.
  """
  found = [columns for run in runs if (columns := read_ridges(run, ridges)) is not None]
  if not found:
    print('no histograms: these runs compare no negatives')
    return []
  table = []
  for one in found:
    bounds = [-math.inf, *one.edges.tolist(), math.inf]
    for kind, counts in one.counts.items():
      for step, row in zip(one.steps, counts, strict=True):
        for lower, upper, count in zip(bounds, bounds[1:], row.tolist(), strict=False):
          table.append((one.name, step, kind, lower, upper, int(count)))
  header = ('run', 'step', 'kind', 'lower', 'upper', 'count')
  return [path, plots.save(_figure(found), str(path), header, table)]


def read_ridges(run: Run, most: int) -> Ridges | None:
  """At most so many histograms of a run, the first and the last among them."""
  options = to_dict(run.config.telemetry) if 'telemetry' in run.config else {}
  keys = {kind: f'{PREFIX}{kind}_hist' for kind in _KINDS}
  rows = [row for row in run.rows if all(isinstance(row.get(key), list) for key in keys.values())]
  if not rows:
    return None
  if not {'bins', 'lowest', 'highest'} <= options.keys():
    print(f'{run.name}: its config does not tell the edges of the histograms, they are not drawn')
    return None
  edges = np.linspace(options['lowest'], options['highest'], options['bins'] + 1)
  kept = [row for row in rows if all(len(row[key]) == len(edges) + 1 for key in keys.values())]
  if len(kept) < len(rows):
    print(f'{run.name}: {len(rows) - len(kept)} histograms had other bins and are not drawn')
  if not kept:
    return None
  chosen = np.unique(np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int))
  kept = [kept[i] for i in chosen]
  counts = {kind: np.array([row[key] for row in kept]) for kind, key in keys.items()}
  return Ridges(run.name, edges, [row['step'] for row in kept], counts)


def _figure(found: Sequence[Ridges]) -> Any:
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here
  from matplotlib.patches import Patch

  columns = min(len(found), _COLUMNS)
  rows = math.ceil(len(found) / columns)
  most = max(len(one.steps) for one in found)
  size = (max(3.2 * columns, 5.2), (0.34 * most + 1.7) * rows + 0.5)
  figure = Figure(figsize=size, dpi=110, layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
  for one, axis in zip(found, axes, strict=False):
    _column(axis, one, most)
  for unused in axes[len(found) :]:
    unused.remove()
  handles = [
    Patch(facecolor=plots.COLOURS[i], alpha=0.6, label=label)
    for i, label in enumerate(_KINDS.values())
  ]
  figure.legend(
    handles=handles,
    loc='outside lower center',
    ncols=2,
    frameon=False,
    fontsize=9,
    title='each ridge is scaled to its own maximum',
    title_fontsize=8,
  )
  return figure


def _column(axis: Any, one: Ridges, most: int) -> None:
  for i in range(len(one.steps)):
    for colour, counts in zip(plots.COLOURS, one.counts.values(), strict=False):
      inside = counts[i, 1:-1]
      y = i + _OVERLAP * inside / max(inside.max(), 1)
      order = 2 * (len(one.steps) - i)  # earlier ridges lie in front of later ones
      area = {'baseline': i, 'color': colour}
      axis.stairs(y, one.edges, fill=True, alpha=0.45, zorder=order, **area)
      axis.stairs(y, one.edges, lw=1.0, zorder=order + 1, **area)
  axis.set_yticks(range(len(one.steps)), [f'{step:,}' for step in one.steps])
  axis.set_ylim(-0.2, most - 1 + _OVERLAP + 0.15)
  axis.set_xlim(one.edges[0], one.edges[-1])
  axis.set_xlabel('score (cosine)', fontsize=9)
  axis.set_ylabel('training step', fontsize=9)
  axis.tick_params(labelsize=8)
  axis.set_title(f'{one.name}\n{_outside(one)}', fontsize=9)
  axis.grid(axis='x', alpha=0.3)


def _outside(one: Ridges) -> str:
  """What the edges cut off."""
  shares = [
    (f'{name} {side}', share)
    for name in one.counts
    for side, share in zip(('below', 'above'), one.outside(name), strict=True)
  ]
  cut = [f'{name} {share:.2g}' for name, share in shares if share > 0]
  if not cut:
    return 'all scores lie within the edges'
  return 'share outside the edges: ' + ', '.join(cut)
