"""Convolution by products against XLA's own, with all derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from clr_jax.ops import convolution

C, F = 40, 32


def native(x, kernel, stride, padding):
  return lax.conv_general_dilated(
    x, kernel, stride, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def first_order(convolve, x, kernel, dx, dkernel):
  """Output and both gradients."""
  y, pull_back = jax.vjp(convolve, x, kernel)
  return y, *pull_back(jnp.sin(y))


def second_order(convolve, x, kernel, dx, dkernel):
  """Output, forward-mode tangent, and a gradient of a gradient."""
  y, dy = jax.jvp(convolve, (x, kernel), (dx, dkernel))

  def loss(x, kernel):
    return jnp.sin(convolve(x, kernel)).sum()

  def slope(x):
    return jnp.square(jax.grad(loss)(x, kernel)).sum()

  return y, dy, jax.grad(slope)(x)


# Height and width, kernel, stride, padding.
CASES = [
  ((2, 2), 3, 1, (1, 1)),
  ((1, 1), 3, 1, (1, 1)),
  ((2, 5), 3, 2, (1, 1)),
  ((4, 3), 3, 3, (0, 2)),
]


@pytest.mark.parametrize(
  'derivatives', [first_order, pytest.param(second_order, marks=pytest.mark.slow)]
)
def test_products_equal_xlas_convolution(derivatives):
  def compute(convolve):
    found = []
    for i, (size, kernel, stride, padding) in enumerate(CASES):
      keys = jax.random.split(jax.random.key(i), 4)
      x, dx = (jax.random.normal(key, (3, *size, C)) for key in keys[:2])
      w, dw = (jax.random.normal(key, (kernel, kernel, C, F)) / C for key in keys[2:])
      args = dict(stride=(stride, stride), padding=(padding, padding))
      found += derivatives(functools.partial(convolve, **args), x, w, dx, dw)
    return found

  found, expected = jax.jit(lambda: (compute(convolution.convolve), compute(native)))()
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize('platform', ['cpu', 'cuda', 'tpu'])
def test_other_maps_and_accelerators_take_xlas_convolution(platform):
  def gradients(x, kernel):
    convolve = functools.partial(convolution.convolve, stride=(1, 1), padding=((1, 1),) * 2)
    return jax.grad(lambda x, w: convolve(x, w).sum(), (0, 1))(x, kernel)

  def lower(size, channels):
    shapes = [(2, size, size, channels), (3, 3, channels, F)]
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    traced = jax.jit(gradients).trace(*args)
    return traced.lower(lowering_platforms=(platform,)).as_text()

  small = lower(2, C)
  assert ('convolution' in small) == (platform != 'cpu')
  assert 'dot_general' not in lower(3, C) + lower(2, 8)
