"""Arrays that PyTorch and torchvision computed; `make.py` made them."""

import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent
# Heights and widths of ten aspects from 1:3 to 3:1, some smaller than the views, some larger.
RECTANGLES = (
  (48, 16),
  (47, 22),
  (16, 9),
  (40, 30),
  (36, 36),
  (12, 12),
  (30, 40),
  (9, 16),
  (22, 47),
  (16, 48),
)
# (height, width) -> scale of drawn boxes: usual, often 10 tries, and the fallback.
DRAWN = {(375, 500): (0.08, 1.0), (120, 360): (0.3, 1.0), (90, 30): (0.5, 1.0)}


def load(name):
  """{key: array} of one archive."""
  with np.load(FOLDER / f'{name}.npz') as file:
    return dict(file)


def weights(name, shape):
  """The parameter or statistic called `name` in PyTorch, in PyTorch's layout; float64."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if name.endswith('running_var'):
    return rng.uniform(0.5, 1.5, shape)
  fan_in = max(int(np.prod(shape[1:])), 1)
  center = 1.0 if len(shape) == 1 and name.endswith('weight') else 0.0
  return center + rng.normal(0, 0.1 if len(shape) == 1 else fan_in**-0.5, shape)


def images(shape, seed=0):
  """Smooth uint8 images [..., H, W, C] with some noise."""
  rng = np.random.default_rng(seed)
  *batch, height, width, channels = shape
  y, x = np.meshgrid(np.linspace(0, 3, height), np.linspace(0, 4, width), indexing='ij')
  phase = rng.uniform(0, 6, [*batch, 1, 1, channels])
  smooth = 127 + 90 * np.sin(y[..., None] + phase) * np.cos(x[..., None] - phase)
  return np.clip(smooth + rng.normal(0, 12, shape), 0, 255).astype(np.uint8)
