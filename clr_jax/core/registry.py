"""Factories by name: one calling convention for methods, models, policies, optimizers, ..."""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Generic, TypeVar

from clr_jax.core.names import check_name
from clr_jax.core.options import check

F = TypeVar('F', bound=Callable[..., Any])


class Registry(Generic[F]):
  """Factories by name; the keyword-only parameters of a factory are its options.

  Args:
    what: names a factory in messages, such as 'model'.
    factories: by name.
  """

  def __init__(self, what: str, factories: Mapping[str, F]):
    self.what, self._factories = what, dict(factories)

  def names(self) -> list[str]:
    """All names."""
    return list(self._factories)

  def factory(self, name: str) -> F:
    """The factory called `name`; UserError lists the names."""
    check_name(self.names(), name, self.what)
    return self._load(name)

  def make(self, name: str, *args: Any, **options: Any) -> Any:
    """What the factory makes of `options`; UserError for one that it does not allow."""
    factory = self.factory(name)
    check(factory, options, what=f'{self.what} {name!r}')
    return factory(*args, **options)

  def _load(self, name: str) -> F:
    return self._factories[name]


class ModuleRegistry(Registry[F]):
  """One file for each factory: a module NAME of a package, with a function NAME.

  The names are known without importing any of the modules.

  Args:
    what: as in `Registry`.
    package: dotted name of the package.
    path: its `__path__`.
    besides: public modules of the package that are no factories.
    function: name of the function, if it is the same in all modules.
  """

  def __init__(
    self,
    what: str,
    package: str,
    path: Iterable[str],
    *,
    besides: Collection[str] = (),
    function: str = '',
  ):
    super().__init__(what, {})
    self._package, self._path = package, path
    self._besides, self._function = besides, function

  def names(self) -> list[str]:
    """All public modules of the package but `besides`."""
    found = {name for folder in self._path for name in _modules(folder, _changed(folder))}
    return sorted(found - set(self._besides))

  def module(self, name: str) -> Any:
    """The module called `name`; UserError lists the names."""
    check_name(self.names(), name, self.what)
    return importlib.import_module(f'{self._package}.{name}')

  def summary(self, name: str) -> str:
    """The first line of the module's docstring."""
    return (self.module(name).__doc__ or '').strip().partition('\n')[0]

  def _load(self, name: str) -> F:
    return getattr(self.module(name), self._function or name)


@functools.lru_cache(maxsize=256)
def _modules(folder: str, changed: int) -> tuple[str, ...]:
  """Public modules of a folder; kept, for a config asks for them a hundred times."""
  del changed  # a folder that changed is listed again
  found = (module.name for module in pkgutil.iter_modules([folder]))
  return tuple(name for name in found if not name.startswith('_'))


def _changed(folder: str) -> int:
  """When a file of the folder came or went; 0 where folders have no times, as in a zip file."""
  try:
    return os.stat(folder).st_mtime_ns
  except OSError:
    return 0
