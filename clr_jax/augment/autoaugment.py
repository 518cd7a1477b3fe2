"""AutoAugment and RandAugment on the device: every image draws its own operations.

A step applies to each image one operation of one magnitude. All operations of a step are computed
for the whole batch and selected by masks: one warp serves shears, shifts and rotation, one blend
serves brightness, color, contrast and sharpness. Tables and magnitudes: Cubuk et al. 2018
(arXiv:1805.09501) and 2019 (arXiv:1909.13719) as torchvision ships them (nearest warps).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.augment import color, filters, geometry
from clr_jax.core.errors import UserError
from clr_jax.core.names import look_up
from clr_jax.core.types import Array

OPERATIONS = (
  'identity',
  'shear_x',
  'shear_y',
  'translate_x',
  'translate_y',
  'rotate',
  'brightness',
  'color',
  'contrast',
  'sharpness',
  'posterize',
  'solarize',
  'autocontrast',
  'equalize',
  'invert',
)
_WARPS = OPERATIONS[1:6]
_BLENDS = OPERATIONS[6:10]
SIGNED = OPERATIONS[1:10]  # operations whose sign is drawn
_RAND_OPERATIONS = OPERATIONS[:14]  # without invert

# 25 sub-policies: (operation, probability in tenths, bin 0 to 9), twice.
_CIFAR10 = """
  invert 1 0 contrast 2 6|rotate 7 2 translate_x 3 9|sharpness 8 1 sharpness 9 3
  shear_y 5 8 translate_y 7 9|autocontrast 5 0 equalize 9 0|shear_y 2 7 posterize 3 7
  color 4 3 brightness 6 7|sharpness 3 9 brightness 7 9|equalize 6 0 equalize 5 0
  contrast 6 7 sharpness 6 5|color 7 7 translate_x 5 8|equalize 3 0 autocontrast 4 0
  translate_y 4 3 sharpness 2 6|brightness 9 6 color 2 8|solarize 5 2 invert 0 0
  equalize 2 0 autocontrast 6 0|equalize 2 0 equalize 6 0|color 9 9 equalize 6 0
  autocontrast 8 0 solarize 2 8|brightness 1 3 color 7 0|solarize 4 5 autocontrast 9 0
  translate_y 9 9 translate_y 7 9|autocontrast 9 0 solarize 8 3|equalize 8 0 invert 1 0
  translate_y 7 9 autocontrast 9 0
"""
_IMAGENET = """
  posterize 4 8 rotate 6 9|solarize 6 5 autocontrast 6 0|equalize 8 0 equalize 6 0
  posterize 6 7 posterize 6 6|equalize 4 0 solarize 2 4|equalize 4 0 rotate 8 8
  solarize 6 3 equalize 6 0|posterize 8 5 equalize 10 0|rotate 2 3 solarize 6 8
  equalize 6 0 posterize 4 6|rotate 8 8 color 4 0|rotate 4 9 equalize 6 0
  equalize 0 0 equalize 8 0|invert 6 0 equalize 10 0|color 6 4 contrast 10 8
  rotate 8 8 color 10 2|color 8 8 solarize 8 7|sharpness 4 7 invert 6 0
  shear_x 6 5 equalize 10 0|color 4 0 equalize 6 0|equalize 4 0 solarize 2 4
  solarize 6 5 autocontrast 6 0|invert 6 0 equalize 10 0|color 6 4 contrast 10 8
  equalize 8 0 equalize 6 0
"""


def _parse(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Operation numbers, probabilities and bins, each [25, 2]."""
  words = text.replace('|', ' ').split()
  ops = np.array([OPERATIONS.index(w) for w in words[::3]], np.int32).reshape(-1, 2)
  probabilities = np.array(words[1::3], np.float32).reshape(-1, 2) / 10
  return ops, probabilities, np.array(words[2::3], np.int32).reshape(-1, 2)


PolicyName = Literal['cifar10', 'imagenet', 'tcl']

POLICIES = {
  'cifar10': _parse(_CIFAR10),
  'imagenet': _parse(_IMAGENET),
  # Its matrices are of (row, column), so that its shear of y is a shear of x.
  'tcl': _parse(_CIFAR10.replace('shear_y', 'shear_x')),
}
"""Tables of sub-policies: operation numbers, probabilities and bins, each [25, 2]."""


def magnitude_table(num_bins: int, height: int, width: int) -> np.ndarray:
  """Physical magnitudes [operation, bin]: see `apply_operations` for the units."""
  part = np.linspace(0, 1, num_bins)
  zero = np.zeros(num_bins)
  columns = {
    'shear_x': 0.3 * part,
    'shear_y': 0.3 * part,
    'translate_x': np.trunc(150 / 331 * width * part),
    'translate_y': np.trunc(150 / 331 * height * part),
    'rotate': 30 * part,
    **{name: 0.9 * part for name in _BLENDS},
    'posterize': 8 - np.round(np.arange(num_bins) / ((num_bins - 1) / 4)),
    # Half a level below the first inverted one: exact on 8-bit images however 1/255 is rounded.
    'solarize': (np.ceil(np.linspace(255, 0, num_bins).astype(np.float32)) - 0.5) / 255,
  }
  return np.stack([columns.get(name, zero) for name in OPERATIONS]).astype(np.float32)


def ranges_of_tcl(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Least and largest magnitudes [25, 2] of the sub-policies 'tcl', in the units of the others.

  Source: data_augmentation/auto_augment.py of chaitanyaanimesh/Tuned-Contrastive-Learning: bin b of
  a signed range of ten bins, so that a bin below 5 rotates, shifts or fades in one direction only.
  """
  part, signed = np.linspace(0, 1, 11), np.linspace(-1, 1, 11)
  columns = {
    'shear_x': 0.3 * signed,
    'translate_x': -150 / 331 * width * signed,
    'translate_y': -150 / 331 * height * signed,
    'rotate': 30 * signed,
    **{name: 0.9 * signed for name in _BLENDS},
    'posterize': 4 + 4 * part,
    'solarize': 256 / 255 * part,
  }
  edges = np.stack([columns.get(name, np.zeros(11)) for name in OPERATIONS]).astype(np.float32)
  ops, _, bins = POLICIES['tcl']
  ends = edges[ops, bins], edges[ops, bins + 1]
  return np.minimum(*ends), np.maximum(*ends)


def _warp_matrix(
  which: dict[str, Array], magnitude: Array, height: int, width: int, centered: bool
) -> geometry.Affine:
  """One affine map per image; the identity where no geometric operation was drawn."""

  def of(name: str) -> Array:
    return jnp.where(which[name], magnitude, 0) if name in which else jnp.zeros_like(magnitude)

  # Rotation is counter-clockwise about the center, shears are about it or the corner (0, 0).
  angle = jnp.deg2rad(of('rotate'))
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  center_x, center_y = width / 2, height / 2
  shift_x, shift_y = of('translate_x'), of('translate_y')
  if centered:
    shift_x, shift_y = shift_x + of('shear_x') * center_y, shift_y + of('shear_y') * center_x
  return geometry.Affine(
    xx=cos,
    xy=of('shear_x') - sin,
    x0=center_x * (1 - cos) + center_y * sin - shift_x,
    yx=of('shear_y') + sin,
    yy=cos,
    y0=center_y * (1 - cos) - center_x * sin - shift_y,
  )


def apply_operations(
  images: Array,
  operation: Array,
  magnitude: Array,
  *,
  kinds: tuple[str, ...] = OPERATIONS,
  fill: float = 0.0,
  centered: bool = False,
) -> Array:
  """Applies to each image the operation OPERATIONS[operation].

  Args:
    images: [B, H, W, C] in [0, 1].
    operation: [B] int.
    magnitude: [B]: shear as a slope, shift in pixels, rotation in degrees counter-clockwise,
      brightness/color/contrast/sharpness as factor - 1, posterize in bits, solarize as threshold in
      [0, 1]; ignored by the rest.
    kinds: the operations that can occur; the others are not computed.
    fill: value of pixels from outside (torchvision 0; the paper's code gray 0.5).
    centered: shears keep the center of the image in place, not its corner.
  """
  _, height, width, channels = images.shape
  magnitude = magnitude.astype(images.dtype)
  idle = ('identity', 'color') if channels == 1 else ('identity',)
  which = {name: operation == OPERATIONS.index(name) for name in kinds if name not in idle}
  result = images

  def select(name: str, changed: Array) -> None:
    nonlocal result
    result = jnp.where(color.per_image(which[name], images), changed, result)

  if warps := [name for name in _WARPS if name in which]:
    matrix = _warp_matrix(which, magnitude, height, width, centered)
    moved = geometry.warp(images, matrix, fill=fill)
    for name in warps:
      select(name, moved)
  if blends := [name for name in _BLENDS if name in which]:
    partner = jnp.zeros_like(images)
    others = {'color': color.luma, 'contrast': color.mean_luma, 'sharpness': filters.smooth}
    for name in blends:
      if name in others:  # brightness blends with black
        other = others[name](images)
        partner = jnp.where(color.per_image(which[name], images), other, partner)
    blended = color.blend(images, partner, 1 + magnitude)
    for name in blends:
      select(name, blended)
  if 'posterize' in which:
    select('posterize', color.posterize(images, jnp.where(which['posterize'], magnitude, 8)))
  if 'solarize' in which:
    select('solarize', color.solarize(images, magnitude))
  for name in ('autocontrast', 'equalize', 'invert'):
    if name in which:
      select(name, getattr(color, name)(images))
  return result


def _signs(key: Array, operation: Array) -> Array:
  """-1 or 1 with equal chance for the operations that have a direction, 1 for the others."""
  signed = jnp.asarray(np.isin(OPERATIONS, SIGNED))[operation]
  negative = jax.random.uniform(key, operation.shape, jnp.float32) < 0.5
  return jnp.where(signed & negative, -1.0, 1.0)


def auto_augment(
  key: Array, images: Array, *, policy: PolicyName = 'cifar10', fill: float = 0.0
) -> Array:
  """AutoAugment: each image draws one of 25 sub-policies of two operations.

  Args:
    key: PRNG key.
    images: [B, H, W, C] in [0, 1].
    policy: 'cifar10' or 'imagenet', the tables of arXiv:1805.09501; 'tcl', that of CIFAR-10 with
      magnitudes drawn from `ranges_of_tcl`, whose code interpolates by splines where this takes the
      nearest pixel, and rotates about a point one pixel beside the center.
    fill: value of pixels from outside.

  Raises:
    UserError: for an unknown policy.

  Example:
    >>> auto_augment(jax.random.key(0), jnp.ones([2, 8, 8, 3])).shape
    (2, 8, 8, 3)
  """
  batch, height, width, _ = images.shape
  ops, probabilities, bins = look_up(POLICIES, policy, 'AutoAugment policy')
  ranged = policy == 'tcl'
  low = high = magnitude_table(10, height, width)[ops, bins]
  if ranged:
    low, high = ranges_of_tcl(height, width)
  sub_key, *step_keys = jax.random.split(key, 3)
  sub = jax.random.randint(sub_key, (batch,), 0, len(ops), jnp.int32)
  for step, step_key in enumerate(step_keys):
    p_key, size_key = jax.random.split(step_key)
    used = (
      jax.random.uniform(p_key, (batch,), jnp.float32) < jnp.asarray(probabilities[:, step])[sub]
    )
    operation = jnp.where(used, jnp.asarray(ops[:, step])[sub], 0)
    magnitude = jnp.asarray(low[:, step])[sub]
    if ranged:
      spread = jnp.asarray(high[:, step] - low[:, step])[sub]
      magnitude += spread * jax.random.uniform(size_key, (batch,), jnp.float32)
      bits = operation == OPERATIONS.index('posterize')
      magnitude = jnp.where(bits, jnp.round(magnitude), magnitude)
    else:
      magnitude *= _signs(size_key, operation)
    kinds = tuple(OPERATIONS[i] for i in np.unique(ops[probabilities[:, step] > 0, step]))
    images = apply_operations(images, operation, magnitude, kinds=kinds, fill=fill, centered=ranged)
  return images


def rand_augment(
  key: Array,
  images: Array,
  *,
  num_ops: int = 2,
  magnitude: int = 9,
  num_bins: int = 31,
  fill: float = 0.0,
) -> Array:
  """RandAugment: `num_ops` times one of 14 operations (identity among them), all of one magnitude.

  Args:
    key: PRNG key.
    images: [B, H, W, C] in [0, 1].
    num_ops: operations in a row.
    magnitude: bin in 0 .. num_bins - 1, num_bins - 1 being the strongest.
    num_bins: number of bins. 2, 9 and 31 are torchvision's defaults.
    fill: value of pixels from outside.

  Raises:
    UserError: for a magnitude outside the bins.

  Example:
    >>> rand_augment(jax.random.key(0), jnp.ones([2, 8, 8, 3]), num_ops=1).shape
    (2, 8, 8, 3)
  """
  if not 0 <= magnitude < num_bins:
    raise UserError(f'RandAugment magnitude {magnitude} must be in 0 .. {num_bins - 1}')
  batch, height, width, _ = images.shape
  magnitudes = jnp.asarray(magnitude_table(num_bins, height, width)[:, magnitude])
  for step_key in jax.random.split(key, num_ops):
    op_key, sign_key = jax.random.split(step_key)
    operation = jax.random.randint(op_key, (batch,), 0, len(_RAND_OPERATIONS), jnp.int32)
    signed = magnitudes[operation] * _signs(sign_key, operation)
    images = apply_operations(images, operation, signed, kinds=_RAND_OPERATIONS, fill=fill)
  return images
