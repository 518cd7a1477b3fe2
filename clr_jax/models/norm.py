"""Batch normalization with per-view statistics and unbiased running variance."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array
from clr_jax.models.one_pass_norm import normalize_batch


class BatchNorm(nn.Module, kw_only=True):
  """Batch normalization over all axes but the last (Ioffe & Szegedy, arXiv:1502.03167).

  Equal to torch.nn.BatchNorm1d/2d, with which the published results were made: biased variance to
  normalize, unbiased variance in the running statistics. Flax's layer stores the biased variance,
  which changes inference after training on small batches.

  Attributes:
    momentum: weight of the old running statistics; 0.9 corresponds to torch's default 0.1.
    epsilon: constant added to the variance; 1e-5 as in torch.
    use_scale: learn a factor per channel.
    use_bias: learn an offset per channel.
    scale_init: initializer of the factor.
    terms: 0 takes the mean before the variance; above 0, both come from one pass over the inputs,
      for GPUs and TPUs: see `one_pass_norm.normalize_batch`. Results differ by rounding.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  use_scale: bool = True
  use_bias: bool = True
  scale_init: Callable[..., Array] = nn.initializers.ones
  terms: int = 0

  @nn.compact
  def __call__(self, x: Array, *, train: bool, groups: int = 1) -> Array:
    """Normalizes x [R, ..., C]; the result has x's shape and dtype.

    Statistics are computed in float32 or wider. With `train` the statistics of the batch are used,
    and the collection 'batch_stats' ('mean', 'var'; their dtype is kept) must be mutable.

    Args:
      x: [R, ..., C].
      train: use and record the statistics of the batch instead of the running ones.
      groups: number of groups; row r belongs to group r % groups, as the views of [B, V, ...]
        reshaped to [B * V, ...]. Each group is normalized by its own statistics, and the running
        statistics are updated once per group, in order, as in one pass after the other.

    Raises:
      UserError: `groups` does not divide R, or a group has a single value per channel.
    """
    channels = x.shape[-1]
    mean = self.variable('batch_stats', 'mean', jnp.zeros, (channels,), jnp.float32)
    var = self.variable('batch_stats', 'var', jnp.ones, (channels,), jnp.float32)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    scale, bias = jnp.ones(channels, dtype), jnp.zeros(channels, dtype)
    if self.use_scale:
      scale = self.param('scale', self.scale_init, (channels,), jnp.float32).astype(dtype)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (channels,), jnp.float32).astype(dtype)
    if train:
      grouped, count = _split(x, groups)
      if self.terms:
        y, batch_mean, batch_var = normalize_batch(
          grouped, scale, bias, mean.value.astype(dtype), self.epsilon, self.terms
        )
      else:
        y, batch_mean, batch_var = _normalize_batch(grouped, scale, bias, self.epsilon)
      if not self.is_initializing():
        self._follow(mean, batch_mean)
        self._follow(var, batch_var * (count / (count - 1)))
      y = y.reshape(x.shape)
    else:
      factor = jax.lax.rsqrt(var.value.astype(dtype) + self.epsilon)
      center, factor, scale, bias = (
        v.astype(dtype).reshape((1,) * (x.ndim - 1) + v.shape)
        for v in (mean.value, factor, scale, bias)
      )
      y = (x.astype(dtype) - center) * factor * scale + bias
    return y.astype(x.dtype)

  def _follow(self, running: nn.Variable, batch: Array) -> None:
    """Applies one exponential-average update per row of `batch` [G, C] in order, in closed form."""
    groups = batch.shape[0]
    if self.terms == 1:
      # On TPUs a sum over groups would be a program of its own. On GPUs it makes XLA compute the
      # running statistics of several layers by one kernel.
      new = running.value
      for value in batch:
        new = self.momentum * new + (1 - self.momentum) * value
    else:
      weights = (1 - self.momentum) * self.momentum ** jnp.arange(groups)[::-1].astype(batch.dtype)
      new = self.momentum**groups * running.value + (weights[:, None] * batch).sum(0)
    running.value = new.astype(running.value.dtype)


def _split(x: Array, groups: int) -> tuple[Array, int]:
  """x [R, ..., C] as [R / groups, groups, positions, C], and the values per channel and group."""
  rows, channels = x.shape[0], x.shape[-1]
  if rows % groups:
    raise UserError(f'BatchNorm cannot split {rows} rows into {groups} equal groups')
  count = x.size // (groups * channels)
  if count < 2:
    raise UserError(
      'BatchNorm needs more than one value per channel and group in training: use a larger batch'
    )
  return x.reshape(rows // groups, groups, -1, channels), count


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _normalize_batch(
  x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array]:
  """Normalizes each group of x [r, G, n, C] by its own statistics.

  The derivative is written by hand: its transpose needs x and two sums over it, whereas JAX's own
  stores three arrays of x's size and sums four times. It is a JVP, not a VJP, so that forward-mode
  and second derivatives work, too.

  Args:
    x: [r, G, n, C], of any floating dtype.
    scale, bias: [C], in the dtype of the statistics.
    epsilon: constant added to the variance.

  Returns:
    y [r, G, n, C]; mean and biased variance [G, C]; all in the dtype of `scale`.
  """
  mean, centered, var, factor = _statistics(x, scale.dtype, epsilon)
  scale, bias = scale[None], bias[None]
  return centered * _broadcast(scale * factor) + _broadcast(bias), mean, var


@_normalize_batch.defjvp
def _normalize_batch_jvp(epsilon: float, primals: Any, tangents: Any) -> Any:
  (x, scale, bias), (dx, dscale, dbias) = primals, tangents
  mean, centered, var, factor = _statistics(x, scale.dtype, epsilon)
  dx, scale, bias = dx.astype(scale.dtype), scale[None], bias[None]
  y = centered * _broadcast(scale * factor) + _broadcast(bias)
  dmean = _mean(dx)
  dvar = 2 * _mean(dx * centered)
  # Each broadcast is shared, because its transpose is a sum over positions.
  slope = dscale[None] * factor - 0.5 * scale * factor**3 * dvar
  dy = (
    _broadcast(scale * factor) * dx
    + _broadcast(dbias[None] - scale * factor * dmean)
    + centered * _broadcast(slope)
  )
  return (y, mean, var), (dy, dmean, dvar)


def _statistics(x: Array, dtype: jnp.dtype, epsilon: float) -> tuple[Array, Array, Array, Array]:
  """Mean [G, C], x - mean, biased variance [G, C] and 1 / standard deviation [G, C]."""
  x = x.astype(dtype)
  mean = _mean(x)
  # Two passes: mean(x^2) - mean(x)^2 loses the variance of inputs far from zero in float32.
  centered = x - _broadcast(mean)
  var = _mean(jnp.square(centered))
  return mean, centered, var, jax.lax.rsqrt(var + epsilon)


def _mean(x: Array) -> Array:
  """[r, G, n, C] -> [G, C]."""
  return x.mean((0, 2))


def _broadcast(v: Array) -> Array:
  """[G, C] -> [1, G, 1, C]."""
  return v[None, :, None]
