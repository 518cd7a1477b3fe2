"""The backbones of `clr_jax.models` that PyTorch has, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from clr_jax.bench.torch_reference import network, vit
from clr_jax.core.errors import UserError

Backbone = network.ResNet | vit.ViT

MAKERS: Mapping[str, Callable[[Any, int, int], Backbone]] = {
  'ResNet': lambda like, channels, size: network.ResNet(like, channels),
  'ViT': vit.ViT,
}
"""Functions (backbone of clr_jax, channels, side in pixels) -> module, by the backbone's class."""


def make(like: nn.Module, channels: int, size: int) -> Backbone:
  """Makes the network of `like` for images with sides of `size` pixels.

  Raises:
    UserError: PyTorch has none of this class.
  """
  name = type(like).__name__
  if name not in MAKERS:
    raise UserError(
      f'--peer has no {name} in PyTorch: set config.model.name to one of another kind, such as '
      f'resnet18'
    )
  return MAKERS[name](like, channels, size)
