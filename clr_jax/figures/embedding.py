"""Features of checkpoints: a map, nearest neighbors, views, classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from clr_jax.core.bounds import CountOrZero, Pictures, Seed
from clr_jax.core.errors import UserError
from clr_jax.figures.analysis.confusion import class_accuracy, knn_confusion
from clr_jax.figures.analysis.neighbors import neighbor_cells
from clr_jax.figures.analysis.networks import Network, random_rows
from clr_jax.figures.analysis.points import point_panel
from clr_jax.figures.analysis.views import view_cells
from clr_jax.figures.drawing.data import (
  Axis,
  Bars,
  Block,
  Cell,
  FigureData,
  Figures,
  Grid,
  Level,
  Mosaic,
  Panel,
  Points,
  Table,
)
from clr_jax.rundir.reader import Run

_MOST_NAMES = 40  # more class names on an axis cannot be read
_MOST_NUMBERS = 12  # classes of a matrix whose cells have numbers
_NO_AXIS = Axis('')


def embedding(
  runs: Sequence[Run],
  *,
  projection: Literal['pca', 'tsne'] = 'pca',
  num_points: Annotated[int, Ge(4), Le(100_000)] = 2000,
  num_images: Pictures = 8,
  num_neighbors: Pictures = 8,
  seed: Seed = 0,
  step: CountOrZero | None = None,
) -> Figures:
  """Draws four figures of the features of each run's checkpoint.

  points: test features in the plane. neighbors: test images and their nearest training images.
  views: augmented training images. classes: accuracy of kNN by class, and its confusion matrix, for
  labeled data. Without a test set, training images are used.

  Args:
    runs: runs to draw.
    projection: 'pca' or 'tsne'.
    num_points: largest number of images in the first figure.
    num_images: largest number of rows in the second and third figure.
    num_neighbors: training images per row.
    seed: RNG seed of the image selection, t-SNE and the augmentation.
    step: step of the checkpoints; None = the newest.
  """
  networks, missing = [], []
  for run in runs:
    try:
      networks.append(Network(run, step=step))
    except UserError as error:
      missing.append(str(error))
  if not networks:
    return Figures([], missing)
  figures = [
    _points(networks, projection=projection, num_points=num_points, seed=seed),
    _neighbors(networks, num_images=num_images, num_neighbors=num_neighbors, seed=seed),
    _views(networks, num_images=num_images, seed=seed),
  ]
  labeled = [network for network in networks if network.subject.sets.labeled]
  for network in networks:
    if network not in labeled:
      lacks = network.subject.sets.missing.removeprefix('is ').removeprefix('are ')
      missing.append(f'classes of {network.name}, which has {lacks}')
  return Figures(figures + [_classes(labeled)] * bool(labeled), missing)


def _points(
  networks: Sequence[Network], *, projection: str, num_points: int, seed: int
) -> FigureData:
  panels, cells = [], []
  for network in networks:
    _, test = network.features
    rows = random_rows(len(test.h), num_points, seed)
    label = None if test.label is None else test.label[rows]
    chosen = test._replace(h=test.h[rows], label=label)
    panel = point_panel(network, rows, chosen, projection=projection, seed=seed)
    panels.append(panel)
    at = {
      i: (x, y)
      for mark in panel.marks_of(Points)
      for i, x, y in zip(mark.ids, mark.x, mark.y, strict=True)
    }
    labels = [''] * len(rows) if label is None else label.tolist()
    cells += [(network.name, i, *at[i], c) for i, c in zip(rows.tolist(), labels, strict=True)]
  same = len({(n.source.class_names, n.source.num_classes) for n in networks}) == 1
  table = Table(('run', 'index', 'x', 'y', 'label'), cells)
  blocks = [Block(panels, 3, (4.4, 4.2))]
  return FigureData('points', blocks, {'': table}, legend='right' if same else 'panels')


def _neighbors(networks: Sequence[Network], **options: int) -> FigureData:
  blocks, cells = [], []
  for network in networks:
    images, rows = neighbor_cells(network, **options)
    blocks.append(_mosaic(f'{network.title}: nearest training images by cosine', images))
    cells += [(network.name, *row) for row in rows]
  header = ('run', 'query', 'rank', 'neighbor', 'cosine', 'query_label', 'neighbor_label')
  return FigureData('neighbors', blocks, {'': Table(header, cells)})


def _views(networks: Sequence[Network], **options: int) -> FigureData:
  blocks, cells = [], []
  for network in networks:
    images, rows = view_cells(network, **options)
    blocks.append(_mosaic(f'{network.name}: augmented views, the inputs of the encoder', images))
    cells += [(network.name, *row) for row in rows]
  return FigureData('views', blocks, {'': Table(('run', 'row', 'index', 'label'), cells)})


def _mosaic(title: str, cells: Sequence[Cell]) -> Block:
  mosaic = Mosaic(cells)
  size = max(0.95 * mosaic.num_columns, 3.6), 0.95 * sum(mosaic.row_heights) + 0.35  # inches
  return Block([Panel(title, _NO_AXIS, _NO_AXIS, [mosaic])], 1, size)


def _classes(networks: Sequence[Network]) -> FigureData:
  """Block with accuracy by class and the confusion matrix of kNN, one row per network."""
  blocks, accuracies, cells = [], [], []
  for network in networks:
    counts, how = knn_confusion(network)
    accuracy = class_accuracy(counts)
    names = [network.class_name(c) for c in range(len(counts))]
    side = float(np.clip(0.34 * len(names) + 1.4, 3.6, 9))
    blocks.append(
      Block(_class_panels(network.title, how, counts, accuracy, names), 2, (side + 0.5, side))
    )
    numbers = zip(names, counts.sum(1).tolist(), accuracy.tolist(), strict=True)
    accuracies += [(network.name, c, *row) for c, row in enumerate(numbers)]
    cells += [(network.name, i, j, counts[i, j]) for i, j in np.argwhere(counts).tolist()]
  tables = {
    '': Table(('run', 'label', 'class', 'images', 'top1'), accuracies),
    'confusion': Table(('run', 'label', 'predicted', 'images'), cells),
  }
  return FigureData('classes', blocks, tables, legend='panels')


def _class_panels(
  title: str, how: str, counts: np.ndarray, accuracy: np.ndarray, names: Sequence[str]
) -> list[Panel]:
  count = len(names)
  ticks = {i: name[:16] for i, name in enumerate(names)} if count <= _MOST_NAMES else {}
  y = Axis('class', limits=(-0.5, count - 0.5), ticks=ticks, reversed=True)
  total = 100 * float(np.trace(counts) / counts.sum())
  level = Level(f'all test images: {total:.1f} %', 1, total, vertical=True)
  bars = [Bars(0, (100 * accuracy).tolist()), level]
  share = 100 * counts / np.maximum(counts.sum(1), 1)[:, None]
  numbers = [[f'{v:.0f}' if v >= 1 else '<1' * bool(v) for v in row] for row in share.tolist()]
  edges = np.arange(count + 1) - 0.5
  grid = Grid(
    edges,
    edges,
    share,
    'share of the class, %',
    (0, 100),
    numbers=numbers if count <= _MOST_NUMBERS else None,
  )
  return [
    Panel(title, Axis('top-1 accuracy, %', limits=(0, 100)), y, bars, how),
    Panel('confusion matrix', Axis('predicted class', ticks=ticks), y, [grid]),
  ]
