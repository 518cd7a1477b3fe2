"""Convolution of images, by products where XLA's CPU compiler has no fast one."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from clr_jax.core.types import Array

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_MANY_CHANNELS = 1024  # inputs times outputs; measured


def convolve(
  x: Array, kernel: Array, stride: Sequence[int], padding: Sequence[tuple[int, int]]
) -> Array:
  """The cross-correlation of images with a kernel, as `jax.lax.conv_general_dilated`.

  On a CPU, XLA computes a convolution by loops, 10 to 100 times slower than by products, if its
  kernel is larger than its input; in the gradient with respect to x the input is the output here.
  Such maps (the last stage of a ResNet with the ImageNet stem and images of 64 pixels or less)
  are computed there by one product for each place of the kernel, except with few channels, where
  loops are as fast.

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
  axes = zip(x.shape[1:3], kernel.shape[:2], stride, padding, strict=True)
  fits = all(k <= min(n, _output_size(n, k, s, p)) for n, k, s, p in axes)
  if fits or kernel.shape[2] * kernel.shape[3] < _MANY_CHANNELS:
    return whole(x, kernel)
  by_products = functools.partial(_sum_of_products, stride=stride, padding=padding)
  return lax.platform_dependent(x, kernel, cpu=by_products, default=whole)


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
