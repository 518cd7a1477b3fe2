"""Nearest training images of images, by their features."""

from __future__ import annotations

import numpy as np

from clr_jax.evaluation.protocols.knn import nearest
from clr_jax.figures.analysis.networks import Network, random_rows
from clr_jax.figures.drawing.data import Cell
from clr_jax.figures.drawing.palette import COLORS

RIGHT, WRONG = COLORS[2], COLORS[1]


def nearest_others(
  bank: np.ndarray, query: np.ndarray, *, k: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the k rows of the bank with the largest cosines, in descending order, ties by position.

  Args:
    bank: [N, F].
    query: [M, F].
    k: number of rows, at most N, or N - 1 with `own`; larger values are reduced.
    own: [M] row of the bank that is the query itself and is left out; None if the queries are not
      in the bank.

  Returns:
    (cosine [M, k], row of the bank [M, k]).
  """
  if own is None:
    return nearest(bank, query, k=min(k, len(bank)))
  similarity, index = nearest(bank, query, k=min(k + 1, len(bank)))
  # The query itself is moved to the end and cut; if copies have displaced it, the last is cut.
  order = np.argsort(index == own[:, None], axis=1, kind='stable')[:, : min(k, len(bank) - 1)]
  return np.take_along_axis(similarity, order, 1), np.take_along_axis(index, order, 1)


def neighbor_cells(
  network: Network, *, num_images: int, num_neighbors: int, seed: int
) -> tuple[list[Cell], list[tuple]]:
  """Cells of a mosaic, a row per query, and (query, rank, neighbor, cosine, both labels).

  A neighbor of the query's class has a green frame and a tick, others an orange frame and a cross.
  The queries are images of `network.source`, and the same for the same data.

  Args:
    network: the network.
    num_images: largest number of queries.
    num_neighbors: training images per query.
    seed: RNG seed of the queries.
  """
  train, test = network.features
  rows = random_rows(len(test.h), num_images, seed)
  own = rows if network.subject.sets.test is None else None
  similarity, index = nearest_others(train.h, test.h[rows], k=num_neighbors, own=own)
  queries, _ = network.source.load(rows)
  images, _ = network.subject.sets.train.load(index.ravel())
  images = images.reshape(*index.shape, *images.shape[1:])
  cells, table = [], []
  for i, row in enumerate(rows.tolist()):
    label = '' if test.label is None else int(test.label[row])
    name = f'image {row:,}' if label == '' else network.class_name(label)[:14]
    cells.append(Cell(i, 0, queries[i], name))
    for j, (cosine, at) in enumerate(zip(similarity[i].tolist(), index[i].tolist(), strict=True)):
      other = '' if train.label is None else int(train.label[at])
      text, color = f'{cosine:.3f}', None
      if '' not in (label, other):
        text, color = (f'✓ {text}', RIGHT) if label == other else (f'✗ {text}', WRONG)
      cells.append(Cell(i, j + 1, images[i, j], text, color))
      table.append((row, j + 1, at, cosine, label, other))
  return cells, table
