"""Reading of training images by PyTorch's DataLoader, with the crops of the views by PIL."""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from clr_jax.data.encoded import EncodedSource


class Crops(NamedTuple):
  """Random resized crops of an image, as by torchvision.

  Attributes:
    views: number of views of an image.
    size: side of a view, pixels.
    scale: range of the crop's share of the image area.
    ratio: range of its width / height.
    method: 'bilinear' or 'bicubic'.
  """

  views: int
  size: int
  scale: tuple[float, float]
  ratio: tuple[float, float]
  method: str


class CroppedImages(Dataset):
  """Views [V, size, size, C] uint8 of the images of a source; half of them are flipped."""

  def __init__(self, source: EncodedSource, crops: Crops):
    self._source = source
    self._crops = crops

  def __len__(self) -> int:
    return self._source.num_examples

  def __getitem__(self, index: int) -> np.ndarray:
    ((encoded, _),) = self._source.encoded(np.array([index]))
    rng = np.random.default_rng(int(torch.randint(2**62, [1])))
    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
      picture = image.convert('L' if self._source.image_shape[2] == 1 else 'RGB')
    return np.stack([self._view(picture, rng) for _ in range(self._crops.views)])

  def _view(self, picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    size, method = self._crops.size, Image.Resampling[self._crops.method.upper()]
    view = picture.crop(_draw_box(picture, self._crops, rng)).resize((size, size), method)
    if rng.random() < 0.5:
      view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(view).reshape(size, size, -1)


def _draw_box(
  picture: Image.Image, crops: Crops, rng: np.random.Generator
) -> tuple[int, int, int, int]:
  """Draws a box as torchvision does; the whole image where 10 draws do not fit."""
  for _ in range(10):
    area = picture.width * picture.height * rng.uniform(*crops.scale)
    low, high = crops.ratio
    aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
    width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < width <= picture.width and 0 < height <= picture.height:
      left = int(rng.integers(picture.width - width + 1))
      top = int(rng.integers(picture.height - height + 1))
      return left, top, left + width, top + height
  return 0, 0, picture.width, picture.height


def rate(
  source: EncodedSource,
  batches: Sequence[np.ndarray],
  crops: Crops,
  *,
  workers: int,
  skipped: int,
) -> float:
  """Measures images a second of a DataLoader.

  Args:
    source: source of the images.
    batches: indices of the images of each batch.
    crops: views of an image.
    workers: processes that read; 0 = this thread.
    skipped: batches before the clock starts.
  """
  options: dict[str, Any] = {'multiprocessing_context': 'spawn'} if workers else {}
  loader = DataLoader(
    CroppedImages(source, crops),
    batch_sampler=[batch.tolist() for batch in batches],
    num_workers=workers,
    **options,
  )
  loaded = iter(loader)
  with contextlib.ExitStack() as stack:
    stack.callback(getattr(loaded, '_shutdown_workers', lambda: None))
    for _ in range(skipped):
      next(loaded)
    start = time.perf_counter()
    count = sum(len(views) for views in loaded)
    return count / (time.perf_counter() - start)
