"""Test images and the training images whose features are nearest to theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from etils import epath

from clr_jax.evaluation.protocols.knn import nearest
from clr_jax.figures import mosaic, plots
from clr_jax.figures.networks import Network, some

RIGHT, WRONG = plots.COLOURS[2], plots.COLOURS[1]


def neighbours(
  bank: np.ndarray, query: np.ndarray, *, k: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """The k rows of the bank with the largest cosine, the largest first, ties by position.

  Args:
    bank: [N, F].
    query: [M, F].
    k: at most N, or N - 1 with `own`; fewer are given where there are not so many.
    own: [M] the row of the bank that each query itself is, which is left out; None where the
      queries are not in the bank.

  Returns:
    (cosine [M, k], row of the bank [M, k]).
  """
  if own is None:
    return nearest(bank, query, k=min(k, len(bank)))
  similarity, index = nearest(bank, query, k=min(k + 1, len(bank)))
  # The query itself goes to the end; where copies of it have displaced it, the last of them is cut.
  order = np.argsort(index == own[:, None], axis=1, kind='stable')[:, : min(k, len(bank) - 1)]
  return np.take_along_axis(similarity, order, 1), np.take_along_axis(index, order, 1)


def draw_neighbours(
  networks: Sequence[Network], out: str, *, num_images: int, num_neighbours: int, seed: int
) -> epath.Path:
  """Draws a row of images for each query into the PNG `out`, and their indices into a CSV.

  A neighbour of the query's class has a green frame and a tick, another an orange frame and a
  cross. Without a test set, the queries are training images.

  Args:
    networks: what to draw, one below the other; on the same data they have the same queries.
    out: the picture.
    num_images: queries.
    num_neighbours: of each.
    seed: chooses the queries.

  Returns:
    The path of the CSV file.
  """
  drawn, table = [], []
  for network in networks:
    rows = some(len(network.test.h), num_images, seed)
    own = rows if network.subject.sets.test is None else None
    found = neighbours(network.train.h, network.test.h[rows], k=num_neighbours, own=own)
    cells, data = _cells(network, rows, *found)
    drawn.append((f'{network.title}: nearest training images by cosine', cells))
    table += data
  figure = mosaic.figure(drawn)
  header = ('run', 'query', 'rank', 'neighbour', 'cosine', 'query_label', 'neighbour_label')
  return plots.save(figure, out, header, table)


def _cells(
  network: Network, rows: np.ndarray, similarity: np.ndarray, index: np.ndarray
) -> tuple[list[mosaic.Cell], list[tuple]]:
  """The images of one network, and its rows of the CSV file."""
  queries, _ = network.source.load(rows)
  images, _ = network.subject.sets.train.load(index.ravel())
  images = images.reshape(*index.shape, *images.shape[1:])
  own, others = network.test.label, network.train.label
  cells, table = [], []
  for i, row in enumerate(rows.tolist()):
    name = network.class_name(int(own[row]))[:14] if own is not None else f'image {row:,}'
    cells.append(mosaic.Cell(i, 0, queries[i], name))
    for j, (cosine, at) in enumerate(zip(similarity[i].tolist(), index[i].tolist(), strict=True)):
      label = others[at] if others is not None else ''
      text, colour = f'{cosine:.3f}', None
      if own is not None and others is not None:
        right = label == own[row]
        text, colour = f'{"✓" if right else "✗"} {text}', RIGHT if right else WRONG
      cells.append(mosaic.Cell(i, j + 1, images[i, j], text, colour))
      table.append((network.name, row, j + 1, at, cosine, '' if own is None else own[row], label))
  return cells, table
