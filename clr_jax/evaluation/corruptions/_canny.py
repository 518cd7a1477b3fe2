"""Canny edge detection for a batch of gray images (for the rims of drops in `spatter`)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def edges(x: np.ndarray, low: float, high: float) -> np.ndarray:
  """Detects edges, bool [N, H, W], of images [N, H, W] with integers 0..255.

  Sobel gradients of 3x3 pixels with the L1 magnitude, thinned, and kept where connected to a
  magnitude above `high` through magnitudes above `low` (J. Canny, A Computational Approach to Edge
  Detection, 1986; the choices of OpenCV's cv2.Canny).
  """
  down, right = _slope(x, 1, 2), _slope(x, 2, 1)
  strength = np.abs(down) + np.abs(right)
  padded = np.pad(strength, ((0, 0), (1, 1), (1, 1)))
  height, width = x.shape[1:]

  def at(r, c):
    return padded[:, 1 + r : 1 + r + height, 1 + c : 1 + c + width]

  flat = np.abs(down) < np.tan(np.pi / 8) * np.abs(right)
  steep = np.abs(down) > np.tan(3 * np.pi / 8) * np.abs(right)
  same = down * right >= 0
  peak = np.select(
    [flat, steep, same],
    [
      (strength > at(0, -1)) & (strength >= at(0, 1)),
      (strength > at(-1, 0)) & (strength >= at(1, 0)),
      (strength > at(-1, -1)) & (strength > at(1, 1)),
    ],
    (strength > at(-1, 1)) & (strength > at(1, -1)),
  )
  weak = peak & (strength > low)
  neighbors = np.zeros((3, 3, 3))
  neighbors[1] = 1  # never across images
  label = np.empty(x.shape, np.int32)
  ndimage.label(weak, neighbors, output=label)
  return weak & np.isin(label, label[weak & (strength > high)])


def _slope(x: np.ndarray, along: int, across: int) -> np.ndarray:
  """Sobel gradient of images; ndimage.sobel would also smooth over the batch."""
  difference = ndimage.correlate1d(x, [-1, 0, 1], along, mode='nearest')
  return ndimage.correlate1d(difference, [1, 2, 1], across, mode='nearest')
