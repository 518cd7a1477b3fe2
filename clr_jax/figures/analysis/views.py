"""Training images and the views of them that the encoder is given."""

from __future__ import annotations

import jax
import numpy as np

from clr_jax.core.programs import host_jit
from clr_jax.experiment.build import Experiment
from clr_jax.figures.analysis.networks import Network, random_rows
from clr_jax.figures.drawing.data import Cell

_NAMES = {'global': 'view', 'local': 'crop', 'jigsaw': 'patch'}


def views_of(experiment: Experiment, images: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
  """The run's views of images [B, H, W, C] uint8, before the network normalizes them.

  Returns:
    'view 1', 'view 2', ... (of the large views), 'crop 1', ... (of the small ones of multi-crop),
    'patch 1', ... (of a jigsaw) -> [B, h, w, C] float, up to noise in [0, 1].
  """
  made = host_jit(experiment.views)(jax.random.key(seed), images)
  return {
    f'{_NAMES.get(kind, kind)} {v + 1}': np.asarray(views[:, v])
    for kind, views in made.items()
    for v in range(views.shape[1])
  }


def view_cells(network: Network, *, num_images: int, seed: int) -> tuple[list[Cell], list[tuple]]:
  """Images of a mosaic, a row for each training image, and (row, index, label).

  Args:
    network: of a run; runs with the same views on the same data show the same.
    num_images: rows, at most.
    seed: RNG seed of the choice of images and of the augmentation.
  """
  experiment = network.subject.experiment
  index = random_rows(experiment.source.num_examples, num_images, seed)
  images, label = experiment.source.load(index)
  columns = {'original': images, **views_of(experiment, images, seed=seed)}
  cells = [
    Cell(i, column, image, '' if i else f'{name}\n{view.shape[1]} x {view.shape[2]}')
    for column, (name, view) in enumerate(columns.items())
    for i, image in enumerate(view)
  ]
  labels = [''] * len(index) if label is None else label.tolist()
  return cells, [(i, at, labels[i]) for i, at in enumerate(index.tolist())]
