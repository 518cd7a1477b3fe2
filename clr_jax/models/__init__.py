"""Backbones by name. Heads are in `clr_jax.models.heads`.

`make(name, **options)` returns a module(images, *, train, groups=1) -> h [B, module.num_features];
see `clr_jax.models.resnet.architecture` and `clr_jax.models.vit.architecture` for the options:
width, mean, std, ... A file of this package adds its backbones by a dict `BACKBONES` of factories,
and what torchvision or timm call their modules by `TORCH_NAMES`; see `tables`.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn

from clr_jax.core.registry import Registry
from clr_jax.models import resnet, vit
from clr_jax.models.tables import rows

REGISTRY: Registry[Callable[..., nn.Module]] = Registry('model', rows('BACKBONES'))
names, factory, make = REGISTRY.names, REGISTRY.factory, REGISTRY.make


def fixed_factors(backbone: nn.Module) -> dict[str, float]:
  """Factors, all 0, of the updates of the parameters that the backbone keeps fixed.

  Example:
    >>> fixed_factors(vit_tiny(patch_projection='fixed'))
    {'patch_embed_proj': 0.0}
  """
  return dict.fromkeys(getattr(backbone, 'frozen_parameters', ()), 0.0)


ResNet = resnet.ResNet
resnet_tiny, resnet18, resnet34 = resnet.resnet_tiny, resnet.resnet18, resnet.resnet34
resnet50, resnet101 = resnet.resnet50, resnet.resnet101
ViT = vit.ViT
vit_tiny, vit_small, vit_base = vit.vit_tiny, vit.vit_small, vit.vit_base
