"""Initializers that Flax does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax.core.types import Array


def uniform(bound: float) -> nn.initializers.Initializer:
  """Initializer U(-bound, bound): torch's default for biases, whose shape lacks the fan-in."""

  def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
