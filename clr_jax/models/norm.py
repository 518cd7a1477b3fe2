"""Batch normalisation with per-view statistics and unbiased running variance."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax.core.errors import UserError
from clr_jax.core.types import Array


class BatchNorm(nn.Module, kw_only=True):
  """Batch normalisation over all axes but the last (Ioffe & Szegedy, arXiv:1502.03167).

  The numbers are those of torch.nn.BatchNorm1d/2d, which the published results come from: biased
  variance to normalise, unbiased variance in the running statistics. Flax's own layer keeps the
  biased one, which changes the outputs of small batches at inference.

  Attributes:
    momentum: share of the old running statistics that stays; 0.9 is torch's default 0.1.
    epsilon: added to the variance; 1e-5 as in torch.
    use_scale: learn a factor per channel.
    use_bias: learn an offset per channel.
    scale_init: initializer of the factor.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  use_scale: bool = True
  use_bias: bool = True
  scale_init: Callable[..., Array] = nn.initializers.ones

  @nn.compact
  def __call__(self, x: Array, *, train: bool, groups: int = 1) -> Array:
    """Normalises x [R, ..., C]; the result has x's shape and dtype.

    Statistics are computed in float32 or wider. With `train` those of the batch are used, and the
    collection 'batch_stats' ('mean', 'var', kept in the dtype they come in) must be mutable.

    Args:
      x: [R, ..., C].
      train: use and record the statistics of the batch instead of the running ones.
      groups: row r belongs to group r % groups, which is how [B, V, ...] reshaped to [B * V, ...]
        lays out its views. Each group is normalised by its own statistics, and the running ones
        are updated once a group, in order: as if the groups were passed one after the other.

    Raises:
      UserError: if `groups` does not divide R, or a group has a single value per channel.
    """
    channels = x.shape[-1]
    mean = self.variable('batch_stats', 'mean', jnp.zeros, (channels,), jnp.float32)
    var = self.variable('batch_stats', 'var', jnp.ones, (channels,), jnp.float32)
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if train:
      y, batch_mean, batch_var = self._normalise_groups(y, groups)
      if not self.is_initializing():
        self._follow(mean, batch_mean)
        self._follow(var, batch_var)
    else:
      factor = jax.lax.rsqrt(var.value + self.epsilon)
      y = (y - _per_channel(mean.value, y)) * _per_channel(factor, y)
    if self.use_scale:
      y = y * _per_channel(self.param('scale', self.scale_init, (channels,), jnp.float32), y)
    if self.use_bias:
      y = y + _per_channel(self.param('bias', nn.initializers.zeros, (channels,), jnp.float32), y)
    return y.astype(x.dtype)

  def _normalise_groups(self, y: Array, groups: int) -> tuple[Array, Array, Array]:
    """Normalised y, and mean and unbiased variance [groups, C] of each group."""
    rows, channels = y.shape[0], y.shape[-1]
    if rows % groups:
      raise UserError(f'BatchNorm cannot split {rows} rows into {groups} equal groups')
    count = y.size // (groups * channels)
    if count < 2:
      raise UserError(
        'BatchNorm needs more than one value per channel and group in training: use a larger batch'
      )
    grouped = y.reshape(rows // groups, groups, *y.shape[1:])
    axes = (0, *range(2, grouped.ndim - 1))
    # Two passes: mean(x^2) - mean(x)^2 loses the variance of inputs far from zero in float32.
    mean = grouped.mean(axes, keepdims=True)
    centred = grouped - mean
    var = jnp.square(centred).mean(axes, keepdims=True)
    normalised = centred * jax.lax.rsqrt(var + self.epsilon)
    unbiased = var * (count / (count - 1))
    return (
      normalised.reshape(y.shape),
      mean.reshape(groups, channels),
      unbiased.reshape(groups, channels),
    )

  def _follow(self, running: nn.Variable, batch: Array) -> None:
    """One exponential-average update per row of `batch` [G, C], in order, in closed form."""
    groups = batch.shape[0]
    weights = (1 - self.momentum) * self.momentum ** jnp.arange(groups)[::-1].astype(batch.dtype)
    new = self.momentum**groups * running.value + (weights[:, None] * batch).sum(0)
    running.value = new.astype(running.value.dtype)


def _per_channel(v: Array, like: Array) -> Array:
  """[C] -> [1, ..., 1, C] in the dtype and rank of `like`."""
  return v.astype(like.dtype).reshape((1,) * (like.ndim - 1) + v.shape)
