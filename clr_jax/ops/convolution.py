"""Convolution of images, by products where XLA's CPU compiler has no fast one."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from clr_jax.core.types import Array
from clr_jax.ops.winograd import convolve_3x3

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_MANY_CHANNELS = 1024  # inputs times outputs; measured
# Winograd's form pays from so many channels, of input and output, and multiplications in each of
# its 16 products; measured.
_WIDE, _LARGE = 128, 1 << 26


def convolve(
  x: Array, kernel: Array, stride: Sequence[int], padding: Sequence[tuple[int, int]]
) -> Array:
  """The cross-correlation of images with a kernel, as `jax.lax.conv_general_dilated`.

  On a CPU, XLA computes a convolution by loops, 10 to 100 times slower than by products, if its
  kernel is larger than its input; in the gradient with respect to x the input is the output here.
  Such maps (the last stage of a ResNet with the ImageNet stem and images of 64 pixels or less)
  are computed there by one product for each place of the kernel, except with few channels, where
  loops are as fast. Large convolutions with a 3x3 kernel, stride 1 and many channels are computed
  there in Winograd's form, up to 1.7 times as fast; their results differ by rounding.

  Args:
    x: [B, H, W, C].
    kernel: [h, w, C, F].
    stride: stride of the output's rows and columns.
    padding: zeros before and after the rows, and the columns.

  Returns:
    [B, H', W', F].
  """
  whole = functools.partial(
    lax.conv_general_dilated,
    window_strides=stride,
    padding=padding,
    dimension_numbers=_LAYOUT,
  )
  axes = list(zip(x.shape[1:3], kernel.shape[:2], stride, padding, strict=True))
  sizes = [_output_size(*axis) for axis in axes]
  fits = all(k <= min(n, size) for (n, k, _, _), size in zip(axes, sizes, strict=True))
  channels, outputs = kernel.shape[2:]
  if not fits and channels * outputs >= _MANY_CHANNELS:
    fast = functools.partial(_sum_of_products, stride=stride, padding=padding)
  elif (
    fits
    and kernel.shape[:2] == (3, 3)
    and tuple(stride) == (1, 1)
    and min(channels, outputs) >= _WIDE
    and x.shape[0] * math.prod(sizes) // 4 * channels * outputs >= _LARGE
    and jnp.finfo(x.dtype).bits >= 32
  ):
    fast = functools.partial(convolve_3x3, padding=padding)
  else:
    return whole(x, kernel)
  return lax.platform_dependent(x, kernel, cpu=fast, default=whole)


def _sum_of_products(
  x: Array, kernel: Array, stride: Sequence[int], padding: Sequence[tuple[int, int]]
) -> Array:
  """`convolve` as a sum over the places of the kernel."""
  places = [
    [_overlap(a, n, k, s, p) for a in range(k)]
    for n, k, s, p in zip(x.shape[1:3], kernel.shape[:2], stride, padding, strict=True)
  ]
  total = None
  for a, rows in enumerate(places[0]):
    for b, columns in enumerate(places[1]):
      if rows is None or columns is None:
        continue
      part = x[:, rows[0], columns[0]] @ kernel[a, b]
      part = lax.pad(part, jnp.zeros((), part.dtype), ((0, 0, 0), rows[1], columns[1], (0, 0, 0)))
      total = part if total is None else total + part
  assert total is not None, 'the kernel meets no pixel'
  return total


def _output_size(size: int, kernel: int, stride: int, padding: tuple[int, int]) -> int:
  return (size + sum(padding) - kernel) // stride + 1


def _overlap(
  place: int, size: int, kernel: int, stride: int, padding: tuple[int, int]
) -> tuple[slice, tuple[int, int, int]] | None:
  """Where one row of the kernel meets the input, and how the outputs there are padded to all."""
  length = _output_size(size, kernel, stride, padding)
  offset = place - padding[0]  # output i reads input stride * i + offset
  first = max(0, -(offset // stride))
  last = min(length - 1, (size - 1 - offset) // stride)
  if first > last:
    return None
  start = stride * first + offset
  return slice(start, stride * last + offset + 1, stride), (first, length - 1 - last, 0)
