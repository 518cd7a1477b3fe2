"""Un-Mix's image mixtures: Shen et al., https://arxiv.org/abs/2003.05438.

Every image is mixed with its partner, the image at the same place of the reversed batch. One draw
serves the whole batch. Draws are float32 whatever the default precision.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array


class Draw(NamedTuple):
  """Random draws of a mixture.

  Attributes:
    region: bool scalar, a box of the partner is pasted; otherwise whole images are blended.
    lam: scalar in [0, 1].
    center: [2] int32, row and column of the box's center.
  """

  region: Array
  lam: Array
  center: Array


class Mixture(NamedTuple):
  """A batch of mixed images.

  Attributes:
    images: [B, H, W, C].
    lam: scalar, the share of an image in its mixture; 1 - lam is its partner's.
  """

  images: Array
  lam: Array


def draw(key: Array, *, height: int, width: int, probability: float) -> Draw:
  """Whole images with `probability`; lam ~ Beta(1, 1), which is uniform; a uniform center."""
  kind_key, lam_key, row_key, column_key = jax.random.split(key, 4)
  center = [
    jax.random.randint(k, [], 0, size, jnp.int32)
    for k, size in ((row_key, height), (column_key, width))
  ]
  return Draw(
    region=jax.random.uniform(kind_key, [], jnp.float32) >= probability,
    lam=jax.random.uniform(lam_key, [], jnp.float32),
    center=jnp.stack(center),
  )


def cut_box(lam: Array, center: Array, *, height: int, width: int) -> tuple[Array, Array]:
  """The box of the partner, and the share of the image that is left.

  Args:
    lam: scalar, the share of the image that a box inside it would leave (up to rounding).
    center: [2] int, row and column; beyond the border the box is cut off.
    height, width: size of the image, pixels.

  Returns:
    [4] int32 (top, left, bottom, right), ends exclusive, and the scalar 1 - area / (H W).
  """
  cut = jnp.sqrt(1 - jnp.asarray(lam))
  ends = []
  for size, middle in ((height, center[0]), (width, center[1])):
    half = jnp.asarray(size * cut).astype(jnp.int32) // 2
    ends.append(jnp.clip(jnp.stack([middle - half, middle + half]), 0, size))
  box = jnp.stack(ends, 1).reshape(-1).astype(jnp.int32)
  area = (box[2] - box[0]) * (box[3] - box[1])
  return box, 1 - area.astype(cut.dtype) / (height * width)


def mix(images: Array, drawn: Draw) -> Mixture:
  """Mixes images [B, H, W, C] with images[::-1]; the middle one of an odd batch with itself."""
  height, width = images.shape[1:3]
  box, left_over = cut_box(drawn.lam, drawn.center, height=height, width=width)
  rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
  inside = (box[0] <= rows) & (rows < box[2]) & (box[1] <= columns) & (columns < box[3])
  own = jnp.where(drawn.region, jnp.where(inside, 0.0, 1.0), drawn.lam).astype(images.dtype)
  own = own[None, :, :, None]
  # Split over devices, each sends its images of this one view to the device opposite.
  mixed = own * images + (1 - own) * images[::-1]
  return Mixture(mixed, jnp.where(drawn.region, left_over, drawn.lam))
