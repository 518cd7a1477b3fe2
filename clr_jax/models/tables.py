"""Tables of the architectures: each file of this package may state rows of its own."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any


@functools.cache
def rows(table: str) -> Mapping[str, Any]:
  """Joins the dicts called `table` of the modules of `clr_jax.models`.

  Example:
    >>> rows('TORCH_NAMES')['mlp_fc1']
    'mlp.fc1'
  """
  # By its name: the package imports this module to make its registry.
  path = importlib.import_module('clr_jax.models').__path__
  names = sorted(module.name for module in pkgutil.iter_modules(path))
  modules = (importlib.import_module(f'clr_jax.models.{name}') for name in names)
  return {key: value for m in modules for key, value in getattr(m, table, {}).items()}
