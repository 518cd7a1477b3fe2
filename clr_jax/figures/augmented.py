"""Training images and the views of them that the encoder is given."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from clr_jax.experiment.build import Experiment
from clr_jax.figures import mosaic, plots
from clr_jax.figures.networks import Network, some

_NAMES = {'global': 'view', 'local': 'crop', 'jigsaw': 'patch'}


def views_of(experiment: Experiment, images: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
  """What the run's views make of images [B, H, W, C] uint8, before the network normalises them.

  Returns:
    'view 1', 'view 2', ... (of the large views), 'crop 1', ... (of the small ones of multi-crop),
    'patch 1', ... (of a jigsaw) -> [B, h, w, C] float, up to noise in [0, 1].
  """
  made = jax.jit(experiment.views)(jax.random.key(seed), images)
  return {
    f'{_NAMES.get(kind, kind)} {v + 1}': np.asarray(views[:, v])
    for kind, views in made.items()
    for v in range(views.shape[1])
  }


def draw_views(networks: Sequence[Network], out: str, *, num_images: int, seed: int) -> epath.Path:
  """Draws a row for each image, the original first, into the PNG `out`, and its CSV.

  Args:
    networks: of which runs, one below the other; runs with the same views on the same data show
      the same.
    out: the picture.
    num_images: rows.
    seed: chooses the images and the augmentation.

  Returns:
    The path of the CSV file: index and label of each training image.
  """
  drawn = [(network, *_cells(network, num_images, seed)) for network in networks]
  figure = mosaic.figure([(f'{n.name}: what the encoder is given', cells) for n, cells, _ in drawn])
  table = [row for _, _, rows in drawn for row in rows]
  return plots.save(figure, out, ('run', 'row', 'index', 'label'), table)


def _cells(network: Network, num_images: int, seed: int) -> tuple[list[mosaic.Cell], list[tuple]]:
  experiment = network.subject.experiment
  index = some(experiment.source.num_examples, num_images, seed)
  images, label = experiment.source.load(index)
  cells = []
  for column, (name, view) in enumerate(
    {'original': images, **views_of(experiment, images, seed=seed)}.items()
  ):
    text = f'{name}\n{view.shape[1]} x {view.shape[2]}'
    cells += [mosaic.Cell(i, column, view[i], '' if i else text) for i in range(len(index))]
  labels = [''] * len(index) if label is None else label.tolist()
  table = [(network.name, i, at, labels[i]) for i, at in enumerate(index.tolist())]
  return cells, table
