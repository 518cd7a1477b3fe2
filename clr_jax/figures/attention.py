"""Attention of a vision transformer's class token over real images, a column per head."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from clr_jax.core.bounds import CountOrZero, Pictures, Seed
from clr_jax.core.errors import UserError
from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array
from clr_jax.evaluation.probing.finetuning import backbone_weights
from clr_jax.figures.analysis.networks import Network, random_rows
from clr_jax.figures.drawing.data import (
  Axis,
  Block,
  Cell,
  FigureData,
  Figures,
  Mosaic,
  Panel,
  Table,
)
from clr_jax.models.tokens import check_tokens
from clr_jax.rundir.reader import Run

_NO_AXIS = Axis('')


def attention(
  runs: Sequence[Run],
  *,
  num_images: Pictures = 6,
  seed: Seed = 0,
  step: CountOrZero | None = None,
) -> Figures:
  """Draws the weights with which the class token of the last block attends to the patches.

  A row per test image (training image without a test set): the image, then the map of each head,
  white where its weight is largest, as in DINO (https://arxiv.org/abs/2104.14294, figure 1).

  Args:
    runs: runs of vision transformers.
    num_images: number of images.
    seed: RNG seed of the image selection.
    step: step of the checkpoints; None = the newest.
  """
  blocks, cells, missing = [], [], []
  for run in runs:
    try:
      network = Network(run, step=step)
      images, rows = _cells(network, num_images, seed)
    except UserError as error:
      missing.append(str(error) if str(error).startswith(run.name) else f'{run.name}: {error}')
      continue
    mosaic = Mosaic(images)
    size = max(0.95 * mosaic.num_columns, 3.6), 0.95 * sum(mosaic.row_heights) + 0.35  # inches
    title = f'{network.title}: attention of the class token in the last block'
    blocks.append(Block([Panel(title, _NO_AXIS, _NO_AXIS, [mosaic])], 1, size))
    cells += [(network.name, *row) for row in rows]
  if not blocks:
    return Figures([], missing)
  header = ('run', 'index', 'label', 'head', 'token', 'largest', 'effective_patches')
  table = Table(header, cells)
  return Figures([FigureData('attention', blocks, {'': table})], missing)


def _cells(network: Network, num_images: int, seed: int) -> tuple[list[Cell], list[tuple]]:
  """Cells of a mosaic, and a row of numbers per image and head.

  The numbers: weight of the class token itself, largest weight of a patch, and the exponential of
  the entropy over the patches.
  """
  experiment, source = network.subject.experiment, network.source
  check_tokens(experiment.backbone, experiment.config.model.name)
  index = random_rows(source.num_examples, num_images, seed)
  images, label = source.load(index)
  params, statistics = backbone_weights(experiment, *network.subject.weights)
  variables = {'params': params, 'batch_stats': statistics}
  weights = np.asarray(_of_token(experiment.backbone, variables, images))
  side = experiment.backbone.patch
  shape = images.shape[1] // side, images.shape[2] // side
  cells, rows = [], []
  for i, (image, heads) in enumerate(zip(images, weights, strict=True)):
    cells.append(Cell(i, 0, image, '' if i else 'image'))
    for head, (token, *patches) in enumerate(heads.tolist()):
      grid = np.asarray(patches).reshape(shape)
      whole = np.kron(grid / grid.max(), np.ones((side, side)))[..., None]
      cells.append(Cell(i, head + 1, whole, '' if i else f'head {head + 1}'))
      share = grid / grid.sum()
      spread = float(np.exp(-(share * np.log(np.maximum(share, 1e-30))).sum()))
      of_image = '' if label is None else int(label[i])
      rows.append((int(index[i]), of_image, head + 1, token, float(grid.max()), spread))
  return cells, rows


@functools.partial(host_jit, static_argnums=0)
def _of_token(backbone: nn.Module, variables: Any, images: Array) -> Array:
  """Weights [B, heads, 1 + patches] of the class token in the last block."""
  x = images.astype(np.float32) / 255
  stored: Any = backbone.apply(variables, x, train=False, mutable=['attention'])[1]
  return stored['attention'][f'blocks_{backbone.depth - 1}']['weights'][:, :, 0]
