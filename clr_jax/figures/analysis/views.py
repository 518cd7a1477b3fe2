"""Training images and their augmented views."""

from __future__ import annotations

import jax
import numpy as np

from clr_jax.core.programs import host_jit
from clr_jax.experiment.build import Experiment
from clr_jax.figures.analysis.networks import Network, random_rows
from clr_jax.figures.drawing.data import Cell

_NAMES = {'global': 'view', 'local': 'crop', 'jigsaw': 'patch'}


def views_of(experiment: Experiment, images: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
  """Computes the run's views of images [B, H, W, C] uint8, before normalization.

  Returns:
    {'view 1': ..., 'view 2': ... (large views), 'crop 1': ... (small views of multi-crop),
    'patch 1': ... (jigsaw)}, each [B, h, w, C] float, in [0, 1] except for noise.
  """
  made = host_jit(experiment.views)(jax.random.key(seed), images)
  return {
    f'{_NAMES.get(kind, kind)} {v + 1}': np.asarray(views[:, v])
    for kind, views in made.items()
    for v in range(views.shape[1])
  }


def view_cells(network: Network, *, num_images: int, seed: int) -> tuple[list[Cell], list[tuple]]:
  """Cells of a mosaic, a row per training image, and (row, index, label).

  Args:
    network: network of a run; runs with equal views and data show the same.
    num_images: largest number of rows.
    seed: RNG seed of the image selection and the augmentation.
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
