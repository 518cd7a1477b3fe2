"""Features in the plane, colored by class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clr_jax.evaluation.probing.features import Features
from clr_jax.figures.analysis.networks import Network
from clr_jax.figures.analysis.projection import project
from clr_jax.figures.drawing.data import Axis, Panel, Points

_MOST_CLASSES = 20  # more cannot be told apart


def point_panel(
  network: Network,
  rows: np.ndarray,
  features: Features,
  *,
  projection: str = 'pca',
  seed: int = 0,
  images: np.ndarray | None = None,
) -> Panel:
  """The images `rows` of the network's source in the plane; of many classes the first 20 are named.

  Args:
    network: the network.
    rows: [N] indices of the images.
    features: theirs.
    projection, seed: see `project`.
    images: [N, H, W, C] uint8, to be shown beside their points; or None.
  """
  found = project(features.h, projection=projection, seed=seed)
  label = features.label
  marks = []
  for at, name, look in _classes(network, label, len(rows)):
    text = [
      (f'{network.class_name(int(label[i]))}, ' if label is not None else '') + f'image {rows[i]:,}'
      for i in at
    ]
    shown = None if images is None else images[at]
    x, y = found.points[at].T
    marks.append(Points(name, look, x, y, text, rows[at].tolist(), shown))
  if found.explained is None:
    axes = ['first t-SNE coordinate', 'second t-SNE coordinate']
  else:
    axes = [
      f'principal component {i} ({share:.1%} of variance)'
      for i, share in enumerate(found.explained, 1)
    ]
  note = f'{len(rows):,} of {network.source.num_examples:,} images'
  return Panel(network.title, Axis(axes[0]), Axis(axes[1]), marks, note)


def _classes(
  network: Network, label: np.ndarray | None, count: int
) -> Iterator[tuple[np.ndarray, str, int | None]]:
  """(rows, name, look) of what has a look of its own, the rest first and thus behind."""
  if label is None:
    yield np.arange(count), '', 0
    return
  shown = min(network.source.num_classes or 0, _MOST_CLASSES)
  if (rows := np.flatnonzero(label >= shown)).size:
    yield rows, 'other classes', None
  for c in range(shown):
    if (rows := np.flatnonzero(label == c)).size:
      yield rows, network.class_name(c), c
