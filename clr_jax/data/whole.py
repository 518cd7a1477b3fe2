"""Images of several sizes, uncropped: each on a canvas of one size, with its height and width.

Training sees the whole image, evaluation the central square.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

Interpolation = Literal['bilinear', 'bicubic']  # augment.geometry's, which imports JAX
_MULTIPLE = 32  # pixels; accelerators prefer multiples of it


class Loaded(NamedTuple):
  """Examples in memory.

  Attributes:
    image: uint8 [n, H, W, C], or [n, S, S, C] on canvases.
    label: [n] int32, or None for unlabeled data.
    extent: [n, 2] int32, height and width of each image in the top left corner of its canvas;
      None where images have one size and lie on none.
  """

  image: Any
  label: Any
  extent: Any = None


class Whole(NamedTuple):
  """How images of several sizes are kept.

  Attributes:
    canvas: side of the canvases; larger images are reduced to fit, by area, and never cut.
    shorter: length to which the shorter side of an image is resized for evaluation.
    size: side of the central square that evaluation sees of that, at most `shorter`.
    always: also keeps images of one size on canvases.
    interpolation: method of resizing for evaluation.
  """

  canvas: int
  shorter: int
  size: int
  always: bool = False
  interpolation: Interpolation = 'bilinear'


def canvas_for(size: int) -> int:
  """The side of canvases that views of `size` pixels are cut from: 512 for 224.

  A crop of a sixth of the area of an image as large as its canvas has the pixels of its view; the
  usual photograph of ImageNet, 500x375, is not reduced.
  """
  return -(-size * 16 // 7 // _MULTIPLE) * _MULTIPLE


def central(image: np.ndarray, whole: Whole) -> np.ndarray:
  """uint8 [H, W, C] -> [size, size, C]: the shorter side resized, then the central square.

  Equals torchvision's Resize and CenterCrop on a PIL image to the bit.
  """
  height, width, channels = image.shape
  least = min(height, width)
  new = whole.shorter * width // least, whole.shorter * height // least
  left, top = (round((length - whole.size) / 2) for length in new)
  picture = Image.fromarray(image[..., 0] if channels == 1 else np.ascontiguousarray(image))
  picture = picture.resize(new, Image.Resampling[whole.interpolation.upper()])
  picture = picture.crop((left, top, left + whole.size, top + whole.size))
  return np.asarray(picture).reshape(whole.size, whole.size, channels)
