"""Scatter plots of features, colored by class."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from clr_jax.evaluation.probing.features import Features
from clr_jax.figures.analysis.networks import Network
from clr_jax.figures.analysis.projection import project
from clr_jax.figures.drawing.data import Axis, Panel, Points

_MOST_COLORS = 20  # more cannot be distinguished


def point_panel(
  network: Network,
  rows: np.ndarray,
  features: Features,
  *,
  projection: str = 'pca',
  seed: int = 0,
  images: np.ndarray | None = None,
) -> Panel:
  """Panel of images `rows` of the network's source in the plane, with a color per class.

  With more than 20 classes, successive classes share colors so that at most 20 are used.

  Args:
    network: the network.
    rows: [N] indices of the images.
    features: [N, F] features of the images.
    projection, seed: see `project`.
    images: [N, H, W, C] uint8, to show beside their points; or None.
  """
  found = project(features.h, projection=projection, seed=seed)
  label = features.label
  marks = []
  together = math.ceil((network.source.num_classes or 1) / _MOST_COLORS)
  for at, name, look in _classes(network, label, len(rows), together):
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
  if label is not None and together > 1:
    note += f'; each color stands for {together} consecutive classes'
  return Panel(network.title, Axis(axes[0]), Axis(axes[1]), marks, note)


def _classes(
  network: Network, label: np.ndarray | None, count: int, together: int
) -> Iterator[tuple[np.ndarray, str, int]]:
  """(rows, name, look) of each group of `together` classes that share a look."""
  if label is None:
    yield np.arange(count), '', 0
    return
  count = network.source.num_classes or 0
  for look, first in enumerate(range(0, count, together)):
    last = min(first + together, count) - 1
    if (rows := np.flatnonzero((label >= first) & (label <= last))).size:
      names = dict.fromkeys(map(network.class_name, (first, last)))
      yield rows, ' to '.join(names), look
