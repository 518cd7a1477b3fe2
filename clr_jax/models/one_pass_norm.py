"""Batch normalization for GPUs and TPUs: as few passes over the activations as there can be.

There a pass over memory and the start of a kernel are what normalization costs. On CPUs the sums
are cheap, and `models.norm` takes the mean before it takes the variance.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from clr_jax.core.types import Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def normalize_batch(
  x: Array, scale: Array, bias: Array, shift: Array, epsilon: float, terms: int
) -> tuple[Array, Array, Array]:
  """Normalizes each group of x [r, G, n, C] by its own statistics, from one pass over x.

  Mean and variance come from the sums of x - shift and of its square. The variance's relative error
  is that of a float32 sum, times 1 + (mean - shift)^2 / variance: the running mean as `shift` keeps
  it small, and costs nothing on any device. The results depend on `shift` by rounding only.

  The derivative is written by hand as a JVP, so that forward-mode and second derivatives work as
  well; transposed, it takes one pass over x and the gradient for both sums. The two sums of either
  direction are one array, which several devices add up in one all-reduce.

  Args:
    x: [r, G, n, C], of any floating dtype.
    scale, bias, shift: [C], in the dtype of the statistics.
    epsilon: added to the variance.
    terms: see `_sum`; divides the rows of each device.

  Returns:
    y [r, G, n, C]; mean and biased variance [G, C]; all in the dtype of `scale`.
  """
  return _forward(x, scale, bias, shift, epsilon, terms)[:3]


@normalize_batch.defjvp
def _normalize_batch_jvp(epsilon: float, terms: int, primals: Any, tangents: Any) -> Any:
  (x, scale, bias, shift), (dx, dscale, dbias, _) = primals, tangents
  y, mean, var, factor, gain, centered = _forward(x, scale, bias, shift, epsilon, terms)
  dx = dx.astype(scale.dtype)
  # `factor` once more, for each value or, as a TPU stores what it broadcasts, for each sum.
  unit = factor if terms == 1 else jnp.ones((), factor.dtype)
  normal = centered if terms == 1 else centered * _broadcast(factor)
  dmean, projection = _mean(dx), unit * _mean(dx * normal)
  # Transposed, these two are the sums over positions. The barrier keeps XLA from adding up all
  # groups in a pass of its own for the gradients of scale and bias.
  both = [dbias[None] - gain * dmean, unit * (dscale[None] - gain * projection)]
  offset, slope = _one_kernel(both, terms)
  rows = x.shape[0]
  dy = (
    _broadcast(gain) * dx
    + _transposed_sum(offset, rows, terms)
    + normal * _transposed_sum(slope, rows, terms)
  )
  return (y, mean, var), (dy, dmean, 2 * projection / factor)


def _forward(
  x: Array, scale: Array, bias: Array, shift: Array, epsilon: float, terms: int
) -> tuple[Array, Array, Array, Array, Array, Array]:
  """y; mean, variance, 1 / deviation, scale / deviation, each [G, C]; x - mean."""
  x = x.astype(scale.dtype)
  count = x.shape[0] * x.shape[2]
  shifted = x - _broadcast(shift[None])
  sums = _one_kernel([_sum(shifted, terms), _sum(jnp.square(shifted), terms)], terms)
  first, second = sums[0] / count, sums[1] / count
  mean = shift[None] + first
  var = jnp.maximum(second - jnp.square(first), 0)
  factor = jax.lax.rsqrt(var + epsilon)
  mean, factor, gain = _one_kernel([mean, factor, scale[None] * factor], terms)
  centered = x - _broadcast(mean)
  y = centered * _broadcast(gain) + _broadcast(bias[None])
  return y, mean, var, factor, gain, centered


def _sum(x: Array, terms: int) -> Array:
  """[r, G, n, C] -> [G, C]: over positions, then over `terms` rows one by one, then over the rest.

  XLA's compiler for GPUs gives a sum of 32 or more rows a kernel to itself; a few additions and a
  shorter sum become one kernel with the arithmetic on [G, C] that follows.
  """
  x = x.sum(2)
  rows, *rest = x.shape
  terms = math.gcd(rows, terms)
  x = x.reshape(rows // terms, terms, *rest)
  return functools.reduce(jnp.add, [x[:, i] for i in range(terms)]).sum(0)


def _one_kernel(arrays: Sequence[Array], terms: int) -> Sequence[Array]:
  """The same arrays [G, C], made by one kernel and sent in one all-reduce.

  A TPU (`terms` 1) does so for several arrays; stacking them would take two programs more.
  """
  together = arrays if terms == 1 else jnp.stack(arrays)
  return list(jax.lax.optimization_barrier(together))


def _transposed_sum(v: Array, rows: int, terms: int) -> Array:
  """[G, C] -> [r, G, 1, C], the same for all rows: the transpose of `_sum`."""
  terms = math.gcd(rows, terms)
  few = jnp.broadcast_to(v, (rows // terms, *v.shape))
  return jnp.stack([few] * terms, 1).reshape(rows, v.shape[0], 1, v.shape[1])


def _mean(x: Array) -> Array:
  """[r, G, n, C] -> [G, C]."""
  return x.mean((0, 2))


def _broadcast(v: Array) -> Array:
  """[G, C] -> [1, G, 1, C]."""
  return v[None, :, None]
