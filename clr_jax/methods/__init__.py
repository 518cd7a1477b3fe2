"""Methods by name: a public module `clr_jax/methods/<name>.py` defines a factory `<name>`.

`factory(name)` is a function (backbone, info, *, hyper-parameters) -> Method, `make` checks its
options and calls it, `summary(name)` describes it in one line. `@register` adds your own factory.
"""

from __future__ import annotations

from collections.abc import Callable

from clr_jax.core.registry import ModuleRegistry
from clr_jax.core.types import Method

REGISTRY: ModuleRegistry[Callable[..., Method]] = ModuleRegistry(
  'method', __name__, __path__, entry_points='clr_jax.methods'
)
names, factory, make = REGISTRY.names, REGISTRY.factory, REGISTRY.make
summary, register = REGISTRY.summary, REGISTRY.register
