"""3x3 convolutions with 16 multiplications for four outputs instead of 36."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from clr_jax.core.types import Array

_KERNEL_TRANSFORM = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))


def convolve_3x3(x: Array, kernel: Array, padding: Sequence[tuple[int, int]]) -> Array:
  """The cross-correlation of images with a 3x3 kernel at stride 1, in Winograd's form.

  Each tile of 4x4 inputs gives 2x2 outputs, by 16 matrix products over all tiles: F(2x2, 3x3) of
  Lavin & Gray, https://arxiv.org/abs/1509.09308, section 4.1. Its rounding errors are about twice
  those of the direct form in float32; narrower types lose digits in the sums of inputs.

  Args:
    x: [B, H, W, C].
    kernel: [3, 3, C, F].
    padding: zeros before and after the rows, and the columns.

  Returns:
    [B, H', W', F].
  """
  height, width = (n + sum(p) - 2 for n, p in zip(x.shape[1:3], padding, strict=True))
  rows, columns = (
    (before, after + size % 2, 0)
    for size, (before, after) in zip((height, width), padding, strict=True)
  )
  # Computed once, not in each of the 16 sums.
  x = lax.optimization_barrier(x)
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))
  tiles = [_transform_input(row, axis=2) for row in _transform_input(x, axis=1)]
  kernels = _transform_kernel(kernel)
  products = [
    [_product(t, k) for t, k in zip(*row, strict=True)] for row in zip(tiles, kernels, strict=True)
  ]
  by_row = zip(*(_transform_output(column) for column in zip(*products, strict=True)), strict=True)
  y = jnp.stack([jnp.stack(_transform_output(row), 3) for row in by_row], 2)
  b, tall, _, wide, _, f = y.shape  # [B, H' / 2, 2, W' / 2, 2, F]
  return y.reshape(b, 2 * tall, 2 * wide, f)[:, :height, :width]


def _transform_input(x: Array, axis: int) -> list[Array]:
  """The four sums of each tile of four along an axis of 2 t + 2, as arrays of t."""
  t = x.shape[axis] // 2 - 1
  # Pairs instead of strides: slices of them have cheap derivatives.
  pairs = x.reshape(*x.shape[:axis], t + 1, 2, *x.shape[axis + 1 :])
  a, b, c, d = (
    lax.index_in_dim(lax.slice_in_dim(pairs, i, i + t, axis=axis), j, axis + 1, keepdims=False)
    for i in (0, 1)
    for j in (0, 1)
  )
  return [a - c, b + c, c - b, b - d]


def _transform_kernel(kernel: Array) -> Array:
  """[4, 4, C, F], by one product."""
  g = jnp.asarray(_KERNEL_TRANSFORM, kernel.dtype)
  places, rest = jnp.kron(g, g), kernel.shape[2:]
  return (places @ kernel.reshape(9, -1)).reshape(4, 4, *rest)


def _product(x: Array, kernel: Array) -> Array:
  # Two dimensions: with more, XLA's CPU compiler copies operands of the kernel's gradient.
  return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def _transform_output(m: Sequence[Array]) -> list[Array]:
  return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
