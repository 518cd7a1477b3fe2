"""Random augmentations: key first, a draw for each image, images [B, H, W, C] in [0, 1].

Draws are float32 whatever the default precision, so that float64 runs see the same augmentations.
"""

from __future__ import annotations

import math
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le, Lt

from clr_jax.augment import canvas, color, filters, geometry
from clr_jax.augment.canvas import Canvas
from clr_jax.augment.filters import drawn, where_drawn
from clr_jax.core.bounds import Padding, Pixels, Probability, ShareRange, Strength, ZoomRange
from clr_jax.core.types import Array


def _uniform(key: Array, batch: int, low: float, high: float) -> Array:
  return jax.random.uniform(key, (batch,), jnp.float32, low, high)


def _integer(key: Array, count: Array) -> Array:
  """Uniform in 0 .. count - 1, each [B] int32 with its own count."""
  draw = jax.random.uniform(key, count.shape, jnp.float32)
  return jnp.minimum((draw * count).astype(jnp.int32), count - 1)


def sample_crop_box(
  key: Array,
  batch: int,
  height: int | Array,
  width: int | Array,
  *,
  scale: ShareRange = (0.08, 1.0),
  ratio: ZoomRange = (3 / 4, 4 / 3),
) -> Array:
  """Boxes [batch, 4] (left, top, right, bottom; int) drawn as by torchvision's RandomResizedCrop.

  Area uniform in scale * H * W and log(width / height) uniform; the first of 10 draws that fits,
  else the largest central box of an allowed ratio; the position is uniform.

  Args:
    height, width: sides of all images, or [batch] int of each.
  """
  area_key, ratio_key, x_key, y_key = jax.random.split(key, 4)
  shape = (batch, 10)
  fall_h, fall_w = _fallback(height, width, ratio)
  # [batch, 1] beside the draws
  tall, wide = (n if isinstance(n, int) else n[:, None] for n in (height, width))
  area = tall * wide * jax.random.uniform(area_key, shape, jnp.float32, *scale)
  log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
  aspect = jnp.exp(jax.random.uniform(ratio_key, shape, jnp.float32, *log_ratio))
  w = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
  h = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
  fits = (w > 0) & (w <= wide) & (h > 0) & (h <= tall)
  first = jnp.argmax(fits, 1)[:, None]
  found = fits.any(1)
  w = jnp.where(found, jnp.take_along_axis(w, first, 1)[:, 0], fall_w)
  h = jnp.where(found, jnp.take_along_axis(h, first, 1)[:, 0], fall_h)
  left = jnp.where(found, _integer(x_key, width - w + 1), (width - w) // 2)
  top = jnp.where(found, _integer(y_key, height - h + 1), (height - h) // 2)
  return jnp.stack([left, top, left + w, top + h], 1)


def _fallback(
  height: int | Array, width: int | Array, ratio: ZoomRange
) -> tuple[int | Array, int | Array]:
  """Height and width of the largest box whose width / height is in `ratio`."""
  low, high = ratio
  if isinstance(height, int) and isinstance(width, int):
    if width / height < low:
      return max(1, round(width / low)), width
    return height, max(1, round(height * high)) if width / height > high else width
  rounded = lambda x: jnp.maximum(jnp.round(x).astype(jnp.int32), 1)  # noqa: E731
  fall_h = jnp.where(width / height < low, rounded(width / low), height)
  return fall_h, jnp.where(width / height > high, rounded(height * high), width)


def crop_box(
  key: Array,
  images: Array | Canvas,
  *,
  scale: ShareRange = (0.08, 1.0),
  ratio: ZoomRange = (3 / 4, 4 / 3),
) -> Array:
  """Boxes [B, 4] of `random_resized_crop`, given the same key and images."""
  if isinstance(images, Canvas):
    height, width = images.extent.T
    return sample_crop_box(key, len(height), height, width, scale=scale, ratio=ratio)
  batch, height, width, _ = images.shape
  return sample_crop_box(key, batch, height, width, scale=scale, ratio=ratio)


def random_resized_crop(
  key: Array,
  images: Array | Canvas,
  *,
  size: Pixels,
  scale: ShareRange = (0.08, 1.0),
  ratio: ZoomRange = (3 / 4, 4 / 3),
  method: geometry.Resampling = 'bilinear',
) -> Array:
  """A random box of each image resized to [B, size, size, C].

  Args:
    key: PRNG key.
    images: [B, H, W, C], or a canvas.
    size: side of the result.
    scale: range of the box's share of the image area.
    ratio: range of its width / height.
    method: 'bilinear' (torchvision's default) or 'bicubic' (google simclr, solo-learn).

  Source: torchvision.transforms.RandomResizedCrop, and its default ranges (Szegedy et al. 2014).

  Example:
    >>> random_resized_crop(jax.random.key(0), jnp.ones([2, 8, 6, 3]), size=4).shape
    (2, 4, 4, 3)
  """
  with jax.named_scope('crop'):
    box = crop_box(key, images, scale=scale, ratio=ratio)
    if isinstance(images, Canvas):
      return canvas.crop_resize(images, box, size=size, method=method)
    return geometry.crop_resize(images, box, size=size, method=method)


def random_crop(
  key: Array,
  images: Array | Canvas,
  *,
  size: Pixels,
  padding: Padding = 4,
  mode: geometry.PaddingMode = 'constant',
) -> Array:
  """Pads ('constant' zeros or 'reflect') and cuts a window of `size` at a uniform position.

  Padding 4 is the CIFAR standard (He et al. 2016, section 4.2). An image of a canvas that is
  smaller than the window with its padding has zeros around it (torchvision's pad_if_needed).

  Example:
    >>> random_crop(jax.random.key(0), jnp.ones([2, 8, 8, 3]), size=8).shape
    (2, 8, 8, 3)
  """
  with jax.named_scope('crop'):
    top_key, left_key = jax.random.split(key)
    if isinstance(images, Canvas):
      top, left = (
        _window_start(k, length + 2 * padding - size)
        for k, length in zip((top_key, left_key), images.extent.T, strict=True)
      )
      return canvas.pad_crop(images, top, left, size=size, padding=padding, mode=mode)
    batch, height, width, _ = images.shape
    rows = jnp.full((batch,), height + 2 * padding - size + 1, jnp.int32)
    columns = jnp.full((batch,), width + 2 * padding - size + 1, jnp.int32)
    top, left = _integer(top_key, rows), _integer(left_key, columns)
    return geometry.pad_crop(images, top, left, size=size, padding=padding, mode=mode)


def _window_start(key: Array, room: Array) -> Array:
  """[B] uniform in 0 .. room, or in room .. 0 where it is negative."""
  return jnp.sign(room) * _integer(key, jnp.abs(room) + 1)


def random_jigsaw(key: Array, images: Array, *, size: Pixels, grid: int = 3) -> Array:
  """Patches [B, grid * grid, size, size, C] in random order: a random window of each cell.

  Args:
    key: PRNG key.
    images: [B, H, W, C]; the cells are H // grid by W // grid pixels from the top left corner.
    size: side of a patch, at most that of a cell.
    grid: 3 (PIRL, InfoMin).

  Source: `JigsawCrop` and the shuffle of `JigsawHead` in PyContrast; the order of an image's
  patches is uniform over all permutations.

  Example:
    >>> random_jigsaw(jax.random.key(0), jnp.ones([2, 9, 9, 1]), size=2).shape
    (2, 9, 2, 2, 1)
  """
  crop_key, order_key = jax.random.split(key)
  batch, height, width, channels = images.shape
  h, w = height // grid, width // grid
  cells = images[:, : h * grid, : w * grid].reshape(batch, grid, h, grid, w, channels)
  cells = cells.swapaxes(2, 3).reshape(batch * grid * grid, h, w, channels)
  patches = random_crop(crop_key, cells, size=size, padding=0)
  patches = patches.reshape(batch, grid * grid, size, size, channels)
  order = jnp.argsort(jax.random.uniform(order_key, (batch, grid * grid), jnp.float32), axis=1)
  return jnp.take_along_axis(patches, order[:, :, None, None, None], axis=1)


def random_flip(key: Array, images: Array, *, p: Probability = 0.5) -> Array:
  """Mirrors each image left-right with probability p.

  Example:
    >>> images = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    >>> print(random_flip(jax.random.key(0), images, p=1.0).ravel())
    [1. 0.]
  """
  return geometry.flip(images, drawn(key, p, images))


def color_jitter(
  key: Array,
  images: Array,
  *,
  brightness: Strength = 0.4,
  contrast: Strength = 0.4,
  saturation: Strength = 0.4,
  hue: Annotated[float, Ge(0), Le(0.5)] = 0.1,
  p: Probability = 0.8,
) -> Array:
  """Brightness, contrast, saturation and hue in a random order for each image.

  Args:
    key: PRNG key.
    images: [B, H, W, C]; with one channel saturation and hue do nothing.
    brightness, contrast, saturation: factors are uniform in [max(0, 1 - v), 1 + v]; 0 is off.
    hue: the shift is uniform in [-hue, hue] of a full circle; hue <= 0.5.
    p: probability per image.

  Source: torchvision.transforms.ColorJitter; the defaults are MoCo v2's (Chen et al. 2020).

  Example:
    >>> images = jnp.full([2, 4, 4, 3], 0.5)
    >>> bool((color_jitter(jax.random.key(0), images, p=0.0) == images).all())
    True
  """
  if images.shape[-1] == 1:
    saturation = hue = 0.0
  factor_key, hue_key, order_key, p_key = jax.random.split(key, 4)
  batch = images.shape[0]
  strength = jnp.array([brightness, contrast, saturation], jnp.float32)[:, None]
  low, high = jnp.maximum(1 - strength, 0), 1 + strength
  factors = low + (high - low) * jax.random.uniform(factor_key, (3, batch), jnp.float32)
  order = jnp.argsort(jax.random.uniform(order_key, (4, batch), jnp.float32), axis=0)
  shift = _uniform(hue_key, batch, -hue, hue)
  blends = [i for i, v in enumerate((brightness, contrast, saturation)) if v]
  return jitter_in_order(
    *(images, factors, shift, order, drawn(p_key, p, images)), blends=blends, with_hue=bool(hue)
  )


def jitter_in_order(
  images: Array,
  factors: Array,
  shift: Array,
  order: Array,
  chosen: Array,
  *,
  blends: list[int],
  with_hue: bool,
) -> Array:
  """Applies brightness, contrast, saturation `factors` [3, B], hue `shift` [B] in `order` [4, B].

  Only the images of `chosen` [B] are changed.

  order[j] names the operation (0 to 3, 3 = hue) at position j. The first three are one blend with
  another partner image, so a round costs one blend; hue, four times as dear, is computed once,
  between the rounds before and after it (12 ms for 256x32x32x3 on 2 CPU cores; hue in each of four
  rounds: 43 ms). `blends` lists the operations in use.
  """

  def blend_round(planes: list[Array], operation: Array, active: Array) -> list[Array]:
    gray = color.luma_of_planes(planes)
    partner = jnp.zeros_like(gray)
    factor = jnp.ones_like(shift)
    for i in blends:
      its_turn = active & (operation == i)
      factor = jnp.where(its_turn, factors[i], factor)
      if i:
        other = gray.mean((1, 2), keepdims=True) if i == 1 else gray
        partner = jnp.where(color.per_image(its_turn, gray), other, partner)
    return [color.blend(plane, partner, factor) for plane in planes]

  def jitter(planes: list[Array]) -> list[Array]:
    if not with_hue:
      for operation in order:
        planes = blend_round(planes, operation, jnp.ones_like(operation, bool))
      return planes
    hue_rank = jnp.argmax(order == 3, axis=0)
    if blends:
      for j in range(3):
        planes = blend_round(planes, order[j], hue_rank > j)
    planes = color.hue_of_planes(planes, shift)
    if blends:
      for j in range(1, 4):
        planes = blend_round(planes, order[j], hue_rank < j)
    return planes

  return color.changed_by_planes(jitter, chosen, images)


def random_grayscale(key: Array, images: Array, *, p: Probability = 0.2) -> Array:
  """Removes the color of each image with probability p (0.2: SimCLR, appendix A).

  Example:
    >>> images = jax.random.uniform(jax.random.key(1), [2, 4, 4, 3])
    >>> gray = random_grayscale(jax.random.key(0), images, p=1.0)
    >>> bool((gray[..., 0] == gray[..., 2]).all())
    True
  """
  return color.changed_by_planes(color.gray_planes, drawn(key, p, images), images)


def random_blur(
  key: Array,
  images: Array,
  *,
  sigma: ZoomRange = (0.1, 2.0),
  kernel_size: Pixels | None = None,
  p: Probability = 0.5,
) -> Array:
  """Gaussian blur with sigma uniform in a range, with probability p per image.

  `kernel_size` None is google simclr's rule, a tenth of the side: 3 taps at 32 pixels, 23 at 224.
  The defaults are SimCLR's (appendix A).

  Example:
    >>> images = jax.random.uniform(jax.random.key(1), [2, 8, 8, 1])
    >>> bool(random_blur(jax.random.key(0), images, kernel_size=3, p=1.0).std() < images.std())
    True
  """
  if kernel_size is None:
    kernel_size = 2 * (images.shape[1] // 20) + 1
  sigma_key, p_key = jax.random.split(key)
  sigmas = _uniform(sigma_key, images.shape[0], *sigma)
  changed = filters.gaussian_blur(images, sigmas, kernel_size=kernel_size)
  return where_drawn(p_key, p, changed, images)


def random_solarize(
  key: Array, images: Array, *, threshold: Probability = 0.5, p: Probability = 0.2
) -> Array:
  """Inverts the pixels at or above `threshold`, with probability p per image (BYOL's view 2).

  Example:
    >>> images = jnp.full([1, 1, 1, 1], 0.75)
    >>> random_solarize(jax.random.key(0), images, p=1.0).item()
    0.25
  """
  return where_drawn(key, p, color.solarize(images, threshold), images)


def random_affine(
  key: Array,
  images: Array,
  *,
  degrees: Annotated[float, Ge(0), Le(180)] = 0.0,
  translate: tuple[Probability, Probability] = (0.0, 0.0),
  scale: ZoomRange = (1.0, 1.0),
  shear: Annotated[float, Ge(0), Lt(90)] = 0.0,
  p: Probability = 1.0,
  method: geometry.Interpolation = 'bilinear',
  fill: Probability = 0.0,
) -> Array:
  """A random affine map about the center, with probability p per image.

  Args:
    key: PRNG key.
    images: [B, H, W, C].
    degrees: rotation is uniform in [-degrees, degrees].
    translate: shift in x and y is uniform up to these shares of width and height, to both sides.
    scale: magnification is uniform in this range.
    shear: shears in x and y are uniform in [-shear, shear] degrees.
    p: probability per image.
    method: 'bilinear' or 'nearest'.
    fill: value of pixels from outside.

  Source: torchvision.transforms.RandomAffine, without its rounding of shifts to whole pixels.

  Example:
    >>> random_affine(jax.random.key(0), jnp.ones([2, 8, 8, 1]), degrees=15.0).shape
    (2, 8, 8, 1)
  """
  batch, height, width, _ = images.shape
  r_key, x_key, y_key, s_key, hx_key, hy_key, p_key = jax.random.split(key, 7)
  shift_x, shift_y = translate[0] * width, translate[1] * height
  changed = geometry.affine(
    images,
    rotation=_uniform(r_key, batch, -degrees, degrees),
    translate=(
      _uniform(x_key, batch, -shift_x, shift_x),
      _uniform(y_key, batch, -shift_y, shift_y),
    ),
    scale=_uniform(s_key, batch, *scale),
    shear=(_uniform(hx_key, batch, -shear, shear), _uniform(hy_key, batch, -shear, shear)),
    method=method,
    fill=fill,
  )
  return where_drawn(p_key, p, changed, images)
