"""Methods by name: a public module `clr_jax/methods/<name>.py` defines a factory `<name>`."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable

from clr_jax.types import Method, UserError


def names() -> list[str]:
  """All methods: the public modules of this package."""
  return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith('_'))


def get(name: str) -> Callable[..., Method]:
  """The factory `(backbone, info, *, hyper-parameters) -> Method` called `name`."""
  if name not in names():
    close = difflib.get_close_matches(name, names(), 1)
    hint = f'did you mean {close[0]!r}? ' if close else ''
    raise UserError(f'unknown method {name!r}: {hint}there are {", ".join(names())}')
  return getattr(importlib.import_module(f'{__name__}.{name}'), name)


def summary(name: str) -> str:
  """One line on a method: the first line of its module's docstring."""
  module = importlib.import_module(f'{__name__}.{name}')
  return (module.__doc__ or '').strip().partition('\n')[0]
