"""Backbones by name. Heads are in `clr_jax.models.heads`.

`make(name, **options)` returns a module(images, *, train, groups=1) -> h [B, module.num_features];
see `clr_jax.models.resnet.architecture` for the options: width, stem, mean, std, ...
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn

from clr_jax.core.registry import Registry
from clr_jax.models import resnet

REGISTRY: Registry[Callable[..., nn.Module]] = Registry(
  'model',
  {
    'resnet_tiny': resnet.resnet_tiny,
    'resnet18': resnet.resnet18,
    'resnet34': resnet.resnet34,
    'resnet50': resnet.resnet50,
    'resnet101': resnet.resnet101,
  },
)
names, factory, make = REGISTRY.names, REGISTRY.factory, REGISTRY.make
ResNet = resnet.ResNet
resnet_tiny, resnet18, resnet34 = resnet.resnet_tiny, resnet.resnet18, resnet.resnet34
resnet50, resnet101 = resnet.resnet50, resnet.resnet101
