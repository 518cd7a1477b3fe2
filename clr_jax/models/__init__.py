"""Backbones by name. Heads are in `clr_jax.models.heads`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from clr_jax.core.names import look_up
from clr_jax.core.registry import check_options
from clr_jax.models import resnet

_FACTORIES: dict[str, Callable[..., nn.Module]] = {
  'resnet_tiny': resnet.resnet_tiny,
  'resnet18': resnet.resnet18,
  'resnet34': resnet.resnet34,
  'resnet50': resnet.resnet50,
  'resnet101': resnet.resnet101,
}


def names() -> list[str]:
  """All backbones."""
  return list(_FACTORIES)


def factory(name: str) -> Callable[..., nn.Module]:
  """The function of keyword-only options that makes the backbone `name`: what a config records."""
  return look_up(_FACTORIES, name, 'model')


def get(name: str, **options: Any) -> nn.Module:
  """The backbone `name`: module(images, *, train, groups=1) -> h [B, module.num_features].

  `options` are those of `clr_jax.models.resnet.architecture`: width, stem, mean, std, ...

  Raises:
    UserError: for an unknown name, option or choice; the message lists the valid ones.
  """
  make = factory(name)
  check_options(f'model {name!r}', make, options)
  return make(**options)
