"""Methods by name: a public module `clr_jax/methods/<name>.py` defines a factory `<name>`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from clr_jax.core.names import check_name
from clr_jax.core.types import Method


def names() -> list[str]:
  """All methods: the public modules of this package."""
  return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith('_'))


def get(name: str) -> Callable[..., Method]:
  """The factory `(backbone, info, *, hyper-parameters) -> Method` called `name`."""
  check_name(names(), name, 'method')
  return getattr(importlib.import_module(f'{__name__}.{name}'), name)


def summary(name: str) -> str:
  """One line on a method: the first line of its module's docstring."""
  module = importlib.import_module(f'{__name__}.{name}')
  return (module.__doc__ or '').strip().partition('\n')[0]
