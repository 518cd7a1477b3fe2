"""Four images and a network that takes crops of any size."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax.core.types import Batch, RunInfo
from clr_jax.models.norm import BatchNorm

INFO = RunInfo(
  num_examples=100,
  num_classes=None,
  batch_size=4,
  num_views=2,
  steps_per_epoch=25,
  total_steps=50,
)
STEP = jnp.zeros([], jnp.int32)


class Tiny(nn.Module):
  """Linear and BatchNorm of the pixels' mean, so that crops of any size fit."""

  num_features: int = 3

  @nn.compact
  def __call__(self, x, *, train, groups=1):
    x = nn.Dense(self.num_features)(x.mean((1, 2)))
    return BatchNorm()(x, train=train, groups=groups)


def batch(num_local=0):
  keys = jax.random.split(jax.random.key(0))
  views = {'global': jax.random.uniform(keys[0], [4, 2, 6, 6, 1])}
  if num_local:
    views['local'] = jax.random.uniform(keys[1], [4, num_local, 3, 3, 1])
  return Batch(views=views)
