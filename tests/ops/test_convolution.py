"""Convolution by products and in Winograd's form against XLA's own, with all derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from clr_jax.ops import convolution, winograd

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
# In Winograd's form: height and width, padding of rows and columns.
WINOGRAD_CASES = [((4, 6), ((1, 1), (1, 1))), ((5, 3), ((0, 2), (1, 0)))]


@pytest.mark.parametrize(
  'derivatives', [first_order, pytest.param(second_order, marks=pytest.mark.slow)]
)
def test_products_equal_xlas_convolution(derivatives):
  def compute(by_products, in_winograds_form):
    found = []
    args = [
      (by_products, size, kernel, dict(stride=(stride, stride), padding=(padding, padding)))
      for size, kernel, stride, padding in CASES
    ]
    args += [
      (in_winograds_form, size, 3, dict(padding=padding)) for size, padding in WINOGRAD_CASES
    ]
    for i, (convolve, size, kernel, rest) in enumerate(args):
      keys = jax.random.split(jax.random.key(i), 4)
      x, dx = (jax.random.normal(key, (3, *size, C)) for key in keys[:2])
      w, dw = (jax.random.normal(key, (kernel, kernel, C, F)) / C for key in keys[2:])
      found += derivatives(functools.partial(convolve, **rest), x, w, dx, dw)
    return found

  fast = (convolution.convolve, winograd.convolve_3x3)
  slow = (native, functools.partial(native, stride=(1, 1)))
  found, expected = jax.jit(lambda: (compute(*fast), compute(*slow)))()
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize('platform', ['cpu', 'cuda', 'tpu'])
def test_other_maps_and_accelerators_take_xlas_convolution(platform):
  def gradients(x, kernel):
    convolve = functools.partial(convolution.convolve, stride=(1, 1), padding=((1, 1),) * 2)
    return jax.grad(lambda x, w: convolve(x, w).sum(), (0, 1))(x, kernel)

  def lower(size, channels, batch=2, outputs=F, dtype=jnp.float32):
    shapes = [(batch, size, size, channels), (3, 3, channels, outputs)]
    args = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    traced = jax.jit(gradients).trace(*args)
    return traced.lower(lowering_platforms=(platform,)).as_text()

  small = lower(2, C)
  assert ('convolution' in small) == (platform != 'cpu')
  assert 'dot_general' not in lower(3, C) + lower(2, 8)
  assert ('convolution' in lower(4, 256, 256, 256)) == (platform != 'cpu')  # Winograd's form
  assert 'dot_general' not in lower(4, 256, 256, 256, jnp.bfloat16) + lower(4, 64, 256, 256)
