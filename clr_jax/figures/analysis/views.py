"""Training images and their augmented views."""

from __future__ import annotations

import jax
import numpy as np

from clr_jax.core.programs import host_jit
from clr_jax.experiment.build import Experiment
from clr_jax.figures.analysis.networks import Network, random_rows
from clr_jax.figures.drawing.data import Cell
from clr_jax.figures.drawing.palette import look

_NAMES = {'global': 'view', 'local': 'crop', 'jigsaw': 'patch'}


def views_of(
  experiment: Experiment, images: np.ndarray, extent: np.ndarray | None = None, *, seed: int
) -> dict[str, np.ndarray]:
  """Computes the run's views of images [B, H, W, C] uint8, before normalization.

  Args:
    experiment: experiment of the run.
    images, extent: see `data.Loaded`.
    seed: RNG seed of the augmentation.

  Returns:
    {'view 1': ..., 'view 2': ... (large views), 'crop 1': ... (small views of multi-crop),
    'patch 1': ... (jigsaw)}, each [B, h, w, C] float, in [0, 1] except for noise.
  """
  given = (images,) if extent is None else (images, extent)
  made = host_jit(experiment.views)(jax.random.key(seed), *given)
  return {
    f'{_NAMES.get(kind, kind)} {v + 1}': np.asarray(views[:, v])
    for kind, views in made.items()
    for v in range(views.shape[1])
  }


def boxes_of(
  experiment: Experiment, images: np.ndarray, extent: np.ndarray | None = None, *, seed: int
) -> dict[str, np.ndarray]:
  """The boxes of `views_of` with the same arguments: 'view 1' -> [B, 4] left, top, right, bottom.

  Without those of views that are cut from no random box, and of patches.
  """
  given = (images,) if extent is None else (images, extent)
  found = host_jit(experiment.views.boxes)(jax.random.key(seed), *given)
  return {
    f'{_NAMES[kind]} {v + 1}': np.asarray(box)
    for kind in ('global', 'local')
    for v, box in enumerate(found.get(kind, ()))
    if box is not None
  }


def view_cells(network: Network, *, num_images: int, seed: int) -> tuple[list[Cell], list[tuple]]:
  """Cells of a mosaic, a row per training image, and (row, index, label).

  The whole image comes first, with the boxes that its views are cut from in their colors.

  Args:
    network: network of a run; runs with equal views and data show the same.
    num_images: largest number of rows.
    seed: RNG seed of the image selection and the augmentation.
  """
  experiment = network.subject.experiment
  index = random_rows(experiment.source.num_examples, num_images, seed)
  images, label, extent = experiment.source.load_whole(index)
  boxes = boxes_of(experiment, images, extent, seed=seed)
  colors = {name: look(i).color for i, name in enumerate(boxes)}
  cells = []
  for i, image in enumerate(images):
    whole = image if extent is None else image[: extent[i][0], : extent[i][1]]
    frames = [(*box[i].tolist(), colors[name]) for name, box in boxes.items()]
    cells.append(Cell(i, 0, whole, '' if i else 'original', boxes=frames))
  for column, (name, view) in enumerate(views_of(experiment, images, extent, seed=seed).items(), 1):
    text = f'{name}\n{view.shape[1]} x {view.shape[2]}'
    cells += [
      Cell(i, column, image, '' if i else text, colors.get(name)) for i, image in enumerate(view)
    ]
  labels = [''] * len(index) if label is None else label.tolist()
  return cells, [(i, at, labels[i]) for i, at in enumerate(index.tolist())]
