"""Batch normalization for GPUs and TPUs: as few passes over the activations as there can be.

There a pass over memory and the start of a kernel are what normalization costs. On CPUs the sums
are cheap, and `models.norm` takes the mean before it takes the variance.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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
    terms: 1 takes the form of TPUs, above see `_Form.sum`; divides the rows of each device.

  Returns:
    y [r, G, n, C]; mean and biased variance [G, C]; all in the dtype of `scale`.
  """
  form = _Form(x.shape[0], x.shape[1], terms)
  return _forward(form, x, scale, bias, shift, epsilon)[:3]


@normalize_batch.defjvp
def _normalize_batch_jvp(epsilon: float, terms: int, primals: Any, tangents: Any) -> Any:
  (x, scale, bias, shift), (dx, dscale, dbias, _) = primals, tangents
  form = _Form(x.shape[0], x.shape[1], terms)
  y, mean, var, numbers, centered = _forward(form, x, scale, bias, shift, epsilon)
  factor, gain = [n.factor for n in numbers], [n.gain for n in numbers]
  dx = form.activations(dx.astype(scale.dtype))
  # `factor` once more, for each value or, on TPUs, for each sum.
  unit = factor if form.on_tpu else [jnp.ones((), f.dtype) for f in factor]
  normal = centered if form.on_tpu else centered * form.broadcast(factor)
  dmean = form.mean(dx)
  projection = [u * m for u, m in zip(unit, form.mean(dx * normal), strict=True)]
  # Transposed, these two are the sums over positions. The barrier keeps XLA from adding up all
  # groups in a pass of its own for the gradients of scale and bias.
  dscale, dbias = form.vector(dscale), form.vector(dbias)
  offset = [dbias - g * m for g, m in zip(gain, dmean, strict=True)]
  slope = [u * (dscale - g * p) for u, g, p in zip(unit, gain, projection, strict=True)]
  offset, slope = form.one_kernel([form.whole(offset), form.whole(slope)])
  dy = form.broadcast(gain) * dx + form.transposed_sum(offset) + normal * form.transposed_sum(slope)
  dvar = form.whole([2 * p / f for p, f in zip(projection, factor, strict=True)])
  return (y, mean, var), (dy.reshape(x.shape), form.whole(dmean), dvar)


class _Numbers(NamedTuple):
  """Mean, 1 / deviation and scale / deviation of the channels."""

  mean: Array
  factor: Array
  gain: Array


def _forward(
  form: _Form, x: Array, scale: Array, bias: Array, shift: Array, epsilon: float
) -> tuple[Array, Array, Array, list[_Numbers], Array]:
  """y; mean and variance [G, C]; the numbers of each part; x - mean as `_Form.activations`."""
  shape, count = x.shape, x.shape[0] * x.shape[2]
  x = form.activations(x.astype(scale.dtype))
  scale, bias, shift = map(form.vector, (scale, bias, shift))
  shifted = x - form.broadcast([shift])
  sums = form.one_kernel([form.sum(shifted), form.sum(jnp.square(shifted))])
  numbers, means, variances = [], [], []
  for first, second in zip(*map(form.parts, sums), strict=True):
    first, second = first / count, second / count
    mean = shift + first
    var = jnp.maximum(second - jnp.square(first), 0)
    factor = jax.lax.rsqrt(var + epsilon)
    means.append(mean)
    variances.append(var)
    numbers += [mean, factor, scale * factor]
  numbers = form.one_kernel(numbers)
  numbers = [_Numbers(*numbers[i : i + 3]) for i in range(0, len(numbers), 3)]
  centered = x - form.broadcast([n.mean for n in numbers])
  y = centered * form.broadcast([n.gain for n in numbers]) + form.broadcast([bias])
  if not form.on_tpu:
    means = [n.mean for n in numbers]
  return y.reshape(shape), form.whole(means), form.whole(variances), numbers, centered


class _Form(NamedTuple):
  """How the sums and the numbers of channels are computed on a kind of device.

  On GPUs the numbers of all groups are one part [G, C]. A TPU's programs would read these only from
  a copy for each image of the batch: there each group is a part [C] of its own, and up to two of
  them are chosen by the row.
  """

  rows: int
  groups: int
  terms: int

  @property
  def on_tpu(self) -> bool:
    return self.terms == 1

  def activations(self, x: Array) -> Array:
    """[r, G, n, C], on TPUs [r * G, n, C], as the activations lie."""
    return x.reshape(-1, *x.shape[2:]) if self.on_tpu else x

  def vector(self, v: Array) -> Array:
    """[C] as a part."""
    return v if self.on_tpu else v[None]

  def parts(self, v: Array) -> list[Array]:
    """[G, C] -> its parts."""
    return list(v) if self.on_tpu else [v]

  def whole(self, parts: Sequence[Array]) -> Array:
    """Parts -> [G, C]."""
    return jnp.stack(parts) if self.on_tpu else parts[0]

  def broadcast(self, parts: Sequence[Array]) -> Array:
    """Parts, or one for all groups, beside activations."""
    if not self.on_tpu:
      return parts[0][None, :, None]
    if len(parts) == 1:
      return parts[0][None, None]
    if len(parts) > _CHOSEN:
      return self._for_each_row(jnp.stack(parts))
    return jnp.where(self._group_of_row() == 0, *(v[None, None] for v in parts))

  def mean(self, x: Array) -> list[Array]:
    """Activations -> parts, the means over rows and positions; transposed, it is `broadcast`."""
    if not self.on_tpu:
      return [x.mean((0, 2))]
    count = self.rows * x.shape[1]
    if self.groups > _CHOSEN:
      return list(x.reshape(self.rows, self.groups, *x.shape[1:]).sum((0, 2)) / count)
    own = [self._group_of_row() == g for g in range(self.groups)]
    return [jnp.where(mask, x, 0).sum((0, 1)) / count for mask in own]

  def sum(self, x: Array) -> Array:
    """Activations -> [G, C]: over positions, over `terms` rows one by one, then over the rest.

    XLA's compiler for GPUs gives a sum of 32 or more rows a kernel to itself; a few additions and a
    shorter sum become one kernel with the arithmetic on [G, C] that follows.
    """
    x = x.sum(-2).reshape(self.rows // self._few, self._few, self.groups, -1)
    return functools.reduce(jnp.add, [x[:, i] for i in range(self._few)]).sum(0)

  def transposed_sum(self, v: Array) -> Array:
    """[G, C] beside activations, for each row: the transpose of `sum`."""
    if self.on_tpu:
      return self._for_each_row(v)
    few = jnp.broadcast_to(v, (self.rows // self._few, *v.shape))
    return jnp.stack([few] * self._few, 1).reshape(self.rows, self.groups, 1, -1)

  def one_kernel(self, arrays: Sequence[Array]) -> list[Array]:
    """The same arrays, made by one kernel and sent in one all-reduce.

    A TPU does so for several arrays; stacking them would take two programs more.
    """
    together = list(arrays) if self.on_tpu else jnp.stack(arrays)
    return list(jax.lax.optimization_barrier(together))

  @property
  def _few(self) -> int:
    return math.gcd(self.rows, self.terms)

  def _group_of_row(self) -> Array:
    return (jnp.arange(self.rows * self.groups) % self.groups)[:, None, None]

  def _for_each_row(self, v: Array) -> Array:
    return jnp.broadcast_to(v, (self.rows, *v.shape)).reshape(-1, 1, v.shape[-1])


_CHOSEN = 2  # groups, of which a TPU chooses by the row
