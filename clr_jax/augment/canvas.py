"""Whole images of many sizes in one array: crops and resizing as PIL does them.

Boxes are [B, 4] left, top, right, bottom in whole pixels of the image. Everything is a product with
two matrices of each image, which hold zeros beyond it; no canvas is gathered. PIL's weights are
whole numbers, 2**22 = 1, and it rounds to 8 bits after each direction (Resample.c). Here a weight
is a sum of 16-bit floats, whose products with levels are the fastest of accelerators and exact.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp

from clr_jax.augment import geometry
from clr_jax.augment.geometry import PaddingMode, Resampling
from clr_jax.core.names import check_name
from clr_jax.core.types import Array

_ONE = 2**22  # PIL's weight 1


class Canvas(NamedTuple):
  """Images of several sizes, each in the top left corner of a square of its own.

  Attributes:
    image: [B, S, S, C] uint8; pixels outside the image are never read.
    extent: [B, 2] int32, height and width of each image, from 1 to S.

  Example:
    >>> images = Canvas(jnp.zeros([2, 8, 8, 3], jnp.uint8), jnp.array([[8, 6], [4, 8]]))
    >>> resize(images, 5).shape
    (2, 5, 5, 3)
  """

  image: Array
  extent: Array


def whole(canvas: Canvas) -> Array:
  """Boxes [B, 4] around the whole images."""
  height, width = canvas.extent.T
  nothing = jnp.zeros_like(height)
  return jnp.stack([nothing, nothing, width, height], 1)


def crop_resize(
  canvas: Canvas, box: Array, *, size: int | tuple[int, int], method: Resampling = 'bilinear'
) -> Array:
  """Cuts `box` out of each image and resizes it, antialiased: PIL's crop(box).resize().

  Args:
    canvas: the images.
    box: [B, 4] int, inside the image, right > left, bottom > top.
    size: side of the result, or its height and width; the aspect is not kept.
    method: 'bilinear' or 'bicubic' (a = -0.5).

  Returns:
    [B, *size, C] in [0, 1], multiples of 1/255 as PIL gives.

  Raises:
    UserError: for an unknown method.

  Source: PIL's Resample.c, as torchvision's resized_crop uses it.
  """
  check_name(get_args(Resampling), method, 'interpolation method')
  height, width = (size, size) if isinstance(size, int) else size
  left, top, right, bottom = box.T
  window = _Window(canvas.image.shape[1], method, exact=False)
  vertical, horizontal = window.weights(top, bottom, height), window.weights(left, right, width)
  if method == 'bilinear':
    return _resampled(canvas.image, vertical, horizontal)
  turned = _height_first(bottom - top, right - left, height, width)
  return _resampled(canvas.image, vertical, horizontal, turned)


def resize(
  canvas: Canvas, size: int | tuple[int, int], *, method: Resampling = 'bilinear'
) -> Array:
  """Resizes each image to [B, *size, C] without keeping its aspect: PIL's resize(size)."""
  return crop_resize(canvas, whole(canvas), size=size, method=method)


def center(canvas: Canvas, *, shorter: int, size: int, method: Resampling = 'bilinear') -> Array:
  """Each shorter side resized to `shorter`, then the central square of `size`: [B, size, size, C].

  Args:
    canvas: the images.
    shorter: at least `size`.
    size: side of the result.
    method: see `crop_resize`.

  Source: torchvision's Resize(shorter) and CenterCrop(size) on PIL images, with its rounding.
  """
  check_name(get_args(Resampling), method, 'interpolation method')
  window = _Window(canvas.image.shape[1], method, exact=True)
  lengths = canvas.extent.T
  least = lengths.min(0)
  of = [shorter * length // least for length in lengths]
  vertical, horizontal = (
    window.weights(jnp.zeros_like(n), n, size, first=_half_to_even(m - size), of=m)
    for n, m in zip(lengths, of, strict=True)
  )
  first = _height_first(*lengths, *of)
  return _in_order(canvas.image, vertical, horizontal, first, _exact_product, _exact_product)


def pad_crop(
  canvas: Canvas, top: Array, left: Array, *, size: int, padding: int, mode: PaddingMode
) -> Array:
  """Pads each image by `padding` pixels and cuts the window at (top, left) of the padded image.

  Args:
    canvas: the images.
    top, left: [B] int; from negative ones on, and where the window ends beyond the padding, there
      are zeros.
    size: side of the result.
    padding: pixels on each side.
    mode: 'constant' (zeros) or 'reflect'.

  Returns:
    [B, size, size, C] in [0, 1].

  Raises:
    UserError: for an unknown mode.
  """
  check_name(get_args(PaddingMode), mode, 'padding mode')
  side = canvas.image.shape[1]

  def rows(start: Array, length: Array) -> Array:
    """[B, size, S]: one-hot rows that pick the source pixel of each pixel of the window."""
    at = (start - padding)[:, None] + jnp.arange(size)[None]
    if mode == 'reflect':
      last = (length - 1)[:, None]
      padded = (at >= -padding) & (at <= last + padding)
      mirrored = last - jnp.abs(last - jnp.abs(at))
      at = jnp.where(padded, mirrored, -1)
    at = jnp.where(at < length[:, None], at, -1)
    return jnp.where(at[:, :, None] == jnp.arange(side)[None, None], _ONE, 0)

  height, width = canvas.extent.T
  vertical, horizontal = rows(top, height), rows(left, width)
  return _resampled(canvas.image, vertical, horizontal)


def _half_to_even(difference: Array) -> Array:
  """round(difference / 2) as Python rounds, of integers."""
  half = difference // 2
  return half + (difference % 2) * (half % 2)


def _height_first(
  height: Array, width: Array, out_height: int | Array, out_width: int | Array
) -> Array:
  """[B] bool: True where Pillow resizes the height first; rounding in between makes it visible.

  So does Pillow 13 where the height loses more than twice as many pixels as the width; before 13
  the width is always first, but for images more than 100 times as high as wide.
  """
  lost = height - out_height
  return (lost > 0) & (lost > 2 * (width - out_width))


class _Window(NamedTuple):
  """How an axis is resampled.

  Attributes:
    side: pixels of the axis of a canvas.
    method: a key of the filters.
    exact: whether bilinear weights are PIL's to the last digit.
  """

  side: int
  method: Resampling
  exact: bool

  def weights(
    self,
    low: Array,
    high: Array,
    out: int,
    *,
    first: Array | None = None,
    of: Array | None = None,
  ) -> Array:
    """[B, out, side] int32, PIL's weights from [low, high] to `out` of `of` pixels.

    The distance of a pixel from the center of a result is a fraction of 2 * of, a whole number.
    """
    length, pixels = (high - low)[:, None, None], jnp.int32(out) if of is None else of
    pixels = pixels.reshape(-1, 1, 1)
    at = jnp.arange(out, dtype=jnp.int32)[None, :, None]
    at = at if first is None else at + first[:, None, None]
    pixel = jnp.arange(self.side, dtype=jnp.int32)[None, None] - low[:, None, None]
    distance = jnp.abs((2 * pixel + 1) * pixels - (2 * at + 1) * length)
    inside = (pixel >= 0) & (pixel < length)
    support = 2 * jnp.maximum(length, pixels)  # of the triangle
    if self.method == 'bilinear':
      weight = jnp.where(inside, jnp.maximum(support - distance, 0), 0)
      if self.exact:
        return _shares(weight)
      weight = weight.astype(jnp.float32)
    else:
      weight = geometry.keys_cubic(distance.astype(jnp.float32) / support.astype(jnp.float32))
    weight = jnp.where(inside, weight, 0)
    return jnp.round(weight / weight.sum(-1, keepdims=True) * _ONE).astype(jnp.int32)


def _shares(weight: Array) -> Array:
  """round(_ONE * weight / its sum over the last axis) of integers, in two steps of 11 bits."""
  total = weight.sum(-1, keepdims=True)
  divisor = total.astype(jnp.float32)
  high = jnp.floor((weight << 11).astype(jnp.float32) / divisor).astype(jnp.int32)
  rest = (weight << 11) - high * total
  return (high << 11) + jnp.floor(rest.astype(jnp.float32) * 2**11 / divisor + 0.5).astype(
    jnp.int32
  )


class _Form(NamedTuple):
  """How a kind of device computes products.

  Attributes:
    dtype: type of the parts of a weight.
    parts: number of parts, whose sum is the weight to the last digit.
    fewer: number of parts, whose sum differs from the weight by at most 2**-18 of it: a thousandth
      of a level before rounding, and so one level after it.
    both: whether images are resized in both orders where the order counts; else images whose height
      is first are transposed, which takes half of the operations.
  """

  dtype: Any
  parts: int
  fewer: int
  both: bool


FORMS: Mapping[str, _Form] = {
  # Transposing on a TPU takes longer than the second product.
  'tpu': _Form(jnp.bfloat16, parts=3, fewer=2, both=True),
  'cuda': _Form(jnp.float16, parts=2, fewer=2, both=False),
  'rocm': _Form(jnp.float16, parts=2, fewer=2, both=False),
  'default': _Form(jnp.float32, parts=1, fewer=1, both=False),
}
"""The form of each platform; 'default' of others."""
_Product = Callable[[str, Array, Array], Array]


def _resampled(
  image: Array, vertical: Array, horizontal: Array, height_first: Array | None = None
) -> Array:
  """vertical [B, H, S] and horizontal [B, W, S], of _ONE, on image [B, S, S, C] uint8.

  Sums are float32, so that few results are not PIL's to the bit.

  Args:
    height_first: [B] bool, elsewhere the width is resized first; None = the width always. The order
      of weights that are not negative changes a result by one level at most; in another order the
      clipping of bicubic ones would change it by several.

  Returns:
    [B, H, W, C] in [0, 1], multiples of 1/255.
  """
  by_platform = {name: functools.partial(_of_form, form) for name, form in FORMS.items()}
  return jax.lax.platform_dependent(image, vertical, horizontal, height_first, **by_platform)


def _of_form(
  form: _Form, image: Array, vertical: Array, horizontal: Array, height_first: Array | None
) -> Array:
  """`_resampled` on one kind of device."""
  precisely, roughly = (
    functools.partial(_product, dtype=form.dtype, parts=n) for n in (form.parts, form.fewer)
  )
  if height_first is not None and not form.both:
    return _in_order(image, vertical, horizontal, height_first, precisely, roughly)
  first = roughly if height_first is None else precisely
  result = roughly(_HEIGHT, vertical, first(_WIDTH, horizontal, image))
  if height_first is not None:
    other = roughly(_WIDTH, horizontal, first(_HEIGHT, vertical, image))
    result = jnp.where(height_first[:, None, None, None], other, result)
  return result / 255


def _in_order(
  image: Array,
  vertical: Array,
  horizontal: Array,
  height_first: Array,
  first_product: _Product,
  second_product: _Product,
) -> Array:
  """As `_resampled`; images whose height is first are transposed before and after."""
  height, width = vertical.shape[1], horizontal.shape[1]
  longest = max(height, width)
  vertical, horizontal = (
    jnp.pad(m, ((0, 0), (0, longest - m.shape[1]), (0, 0))) for m in (vertical, horizontal)
  )
  turned = height_first[:, None, None]
  first = jnp.where(turned, vertical, horizontal)
  second = jnp.where(turned, horizontal, vertical)
  turned = turned[..., None]
  image = jnp.where(turned, image.swapaxes(1, 2), image)
  image = second_product(_HEIGHT, second, first_product(_WIDTH, first, image))
  image = jnp.where(turned, image.swapaxes(1, 2), image)
  return image[:, :height, :width] / 255


# Weights on images [B, H, W, C], resized along an axis.
_WIDTH, _HEIGHT = 'bxw,bhwc->bhxc', 'byh,bhxc->byxc'
_SCALE = 2**10  # keeps all parts of a weight within the exponents of float16


def _product(axes: str, weights: Array, levels: Array, *, dtype: Any, parts: int) -> Array:
  """A product of weights, of _ONE, with levels 0 to 255, rounded and clipped to levels again.

  Args:
    axes: _WIDTH or _HEIGHT.
    dtype: type of the parts of the weights.
    parts: number of parts. They lie side by side, with as many copies of the image, so that one
      product adds them up: on TPUs in half of the time of several products.
  """
  info = jnp.finfo(dtype)
  rest, found = weights.astype(jnp.float32) * (_SCALE / _ONE), []
  for _ in range(parts - 1):
    # Not by a cast and back, which XLA may leave out.
    found.append(jax.lax.reduce_precision(rest, info.nexp, info.nmant))
    rest -= found[-1]
  matrix = jnp.concatenate([*found, rest], -1).astype(dtype)
  copies = jnp.concatenate([levels.astype(dtype)] * parts, 2 if axes == _WIDTH else 1)
  total = jnp.einsum(axes, matrix, copies, preferred_element_type=jnp.float32)
  return jnp.clip(jnp.floor(total / _SCALE + 0.5), 0, 255)


def _exact_product(axes: str, weights: Array, levels: Array) -> Array:
  """As `_product`, always to the bit: a weight is three numbers of 8 bits."""
  levels = levels.astype(jnp.bfloat16)
  upper, low = _digits(weights)
  total = jnp.int32(_ONE // 2)
  for shift, digit in zip((16, 8, 0), (*_digits(upper), low), strict=True):
    # Whole numbers up to 256 are exact in bfloat16, sums below 2**24 in float32, in any order.
    sums = jnp.einsum(axes, digit.astype(jnp.bfloat16), levels, preferred_element_type=jnp.float32)
    total += sums.astype(jnp.int32) << shift
  return jnp.clip(total >> 22, 0, 255).astype(jnp.float32)


def _digits(number: Array) -> tuple[Array, Array]:
  """(high, low) of number = 256 * high + low, low from -128 to 127."""
  high = number + 128 >> 8
  return high, number - (high << 8)
