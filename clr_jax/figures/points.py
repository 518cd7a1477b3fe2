"""Features in the plane, coloured by class."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from clr_jax.figures import plots
from clr_jax.figures.networks import Network, some
from clr_jax.figures.projection import Projection, project

MARKERS = 'os^DvPX*'  # with the 7 colours, 56 different looks
_MOST_CLASSES = 20  # more cannot be told apart
_OTHERS = '#BBBBBB'


def draw_points(
  networks: Sequence[Network], out: str, *, projection: str, num_points: int, seed: int
) -> epath.Path:
  """Draws a panel for each network into the PNG `out`, and the points into a CSV beside it.

  Of more than 20 classes the first 20 have a look of their own.

  Args:
    networks: what to draw.
    out: the picture.
    projection, seed: see `project`; the seed also chooses the points.
    num_points: images of the test set, at most; the axes are theirs.

  Returns:
    The path of the CSV file.
  """
  from matplotlib.figure import Figure  # 0.5 s to import, and only needed here

  columns = min(3, len(networks))
  count = -(-len(networks) // columns)
  figure = Figure(figsize=(4.4 * columns + 1.2, 4.2 * count), dpi=110, layout='constrained')
  axes = figure.subplots(count, columns, squeeze=False).ravel()
  table = []
  same = len({(n.source.class_names, n.source.num_classes) for n in networks}) == 1
  for network, axis in zip(networks, axes, strict=False):
    index = some(len(network.test.h), num_points, seed)
    label = None if network.test.label is None else network.test.label[index]
    found = project(network.test.h[index], projection=projection, seed=seed)
    _panel(axis, found, label, network)
    if not same:
      _legend(axis.legend, axis, loc='upper left', bbox_to_anchor=(1.0, 1.0))
    labels = [''] * len(index) if label is None else label.tolist()
    rows = zip(index.tolist(), found.points.tolist(), labels, strict=True)
    table += [(network.name, i, *point, c) for i, point, c in rows]
  for axis in axes[len(networks) :]:
    axis.remove()
  if same:
    widest = max(axes[: len(networks)], key=lambda axis: len(axis.collections))
    _legend(figure.legend, widest, loc='outside right upper')
  return plots.save(figure, out, ('run', 'index', 'x', 'y', 'label'), table)


def _panel(axis: Any, found: Projection, label: np.ndarray | None, network: Network) -> None:
  for rows, name, look in _groups(len(found.points), label, network):
    axis.scatter(*found.points[rows].T, label=name, s=16, alpha=0.75, lw=0, **look)
  if found.explained is None:
    names = ['first t-SNE coordinate', 'second t-SNE coordinate']
  else:
    shares = [f'{share:.1%}' for share in found.explained]
    names = [f'principal component {i} ({s} of variance)' for i, s in enumerate(shares, 1)]
  axis.set(xlabel=names[0], ylabel=names[1])
  axis.set_title(f'{network.title}: {len(found.points):,} images', fontsize=9)
  axis.grid(alpha=0.3)


def _groups(
  count: int, label: np.ndarray | None, network: Network
) -> Iterator[tuple[np.ndarray, str, dict]]:
  """(rows, name, look) of what has a look of its own, the unlabeled first and thus behind."""
  if label is None:
    yield np.arange(count), '', {'color': plots.COLOURS[0]}
    return
  shown = range(min(network.source.num_classes or 0, _MOST_CLASSES))
  if (rows := np.flatnonzero(label >= len(shown))).size:
    yield rows, 'other classes', {'color': _OTHERS}
  looks = zip(itertools.cycle(plots.COLOURS), itertools.cycle(MARKERS), strict=False)
  for c, (colour, marker) in zip(shown, looks, strict=False):
    if (rows := np.flatnonzero(label == c)).size:
      yield rows, network.class_name(c), {'color': colour, 'marker': marker}


def _legend(make: Any, axis: Any, **place: Any) -> None:
  """Beside the axes, where it covers no data; none where nothing is labeled."""
  handles, names = axis.get_legend_handles_labels()
  if handles:
    make(handles, names, frameon=False, fontsize=8, markerscale=1.6, **place)
