"""Registries of factories by name, for methods, models, policies, optimizers, ...

`registry.register` adds a user's factory; installed packages announce theirs by entry points.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import pkgutil
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Generic, TypeVar

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.core.options import check

F = TypeVar('F', bound=Callable[..., Any])


def check_made(made: Any, kind: type, what: str) -> None:
  """Raises a UserError if a registered function, such as a user's, returned another type."""
  if not isinstance(made, kind):
    raise UserError(
      f'the function of {what} returns a {type(made).__name__}: let it return a {kind.__name__}'
    )


class Registry(Generic[F]):
  """Factories by name; the keyword-only parameters of a factory are its options.

  Args:
    what: kind of the factories for messages, such as 'model'.
    factories: factories by name.
    entry_points: group of the entry points by which packages announce factories; '' = none.
  """

  def __init__(self, what: str, factories: Mapping[str, F], *, entry_points: str = ''):
    self.what, self._factories = what, dict(factories)
    self._entry_points = entry_points
    self._added: dict[str, Any] = {}  # namespaces with the attributes of a module

  def names(self) -> list[str]:
    """All names.

    Example:
      >>> Registry('shape', {'square': lambda *, side=1.0: side**2}).names()
      ['square']
    """
    own = self._own_names()
    return own + sorted({*self._added, *_announced(self._entry_points)} - set(own))

  def register(self, factory: Any = None, /, *, name: str = '', **facts: Any) -> Any:
    """Decorator that adds a factory: `@register` or `@register(name=..., ...)`.

    Args:
      factory: a function whose keyword-only parameters are its options.
      name: name to use instead of the function's.
      facts: attributes that a module of the library would define beside the function.

    Raises:
      UserError: another one has this name.

    Example:
      >>> shapes = Registry('shape', {})
      >>> @shapes.register
      ... def square(*, side: float = 1.0):
      ...   return side**2
      >>> shapes.names()
      ['square']
    """
    if factory is None:
      return functools.partial(self.register, name=name, **facts)
    name = name or factory.__name__
    before = self._added.get(name)
    if name in self._own_names() or (before and _file(before.factory) != _file(factory)):
      raise UserError(
        f'there is a {self.what} called {name!r} already: give {factory.__name__} another name'
      )
    self._added[name] = types.SimpleNamespace(factory=factory, __doc__=factory.__doc__, **facts)
    return factory

  def factory(self, name: str) -> F:
    """The factory called `name`; UserError lists the names.

    Example:
      >>> Registry('shape', {'square': lambda *, side=1.0: side**2}).factory('square')(side=3.0)
      9.0
    """
    check_name(self.names(), name, self.what)
    return self._load(name)

  def make(self, name: str, *args: Any, **options: Any) -> Any:
    """Checks `options` and calls the factory; UserError for an option that is not allowed.

    Example:
      >>> Registry('shape', {'square': lambda *, side=1.0: side**2}).make('square', side=3.0)
      9.0
    """
    factory = self.factory(name)
    check(factory, options, what=f'{self.what} {name!r}')
    return factory(*args, **options)

  def _own_names(self) -> list[str]:
    return list(self._factories)

  def _load(self, name: str) -> F:
    return self._factories[name] if name in self._factories else self._user_module(name).factory

  def _user_module(self, name: str) -> Any:
    """The registered factory called `name`; registers one that a package announces."""
    if name not in self._added:
      try:
        found = _announced(self._entry_points)[name].load()
      except Exception as error:  # raised by another package's code
        raise UserError(
          f'the {self.what} {name!r} of an installed package cannot be loaded '
          f'({type(error).__name__}: {error}): repair or remove that package'
        ) from error
      if name not in self._added:
        self.register(found, name=name)
    return self._added[name]


def _file(factory: Any) -> Any:
  return getattr(getattr(factory, '__code__', None), 'co_filename', factory)


@functools.cache
def _announced(group: str) -> dict[str, importlib.metadata.EntryPoint]:
  """Entry points of a group by name."""
  found = importlib.metadata.entry_points(group=group) if group else ()
  return {entry.name: entry for entry in found}


class ModuleRegistry(Registry[F]):
  """Registry with one file per factory: a module NAME of a package, with a function NAME.

  The names are known without importing any of the modules.

  Args:
    what: kind of the factories, see `Registry`.
    package: dotted name of the package.
    path: `__path__` of the package.
    besides: public modules of the package that are not factories.
    function: name of the function if it is the same in all modules.
    entry_points: group of entry points, see `Registry`.
  """

  def __init__(
    self,
    what: str,
    package: str,
    path: Iterable[str],
    *,
    besides: Collection[str] = (),
    function: str = '',
    entry_points: str = '',
  ):
    super().__init__(what, {}, entry_points=entry_points)
    self._package, self._path = package, path
    self._besides, self._function = besides, function

  def _own_names(self) -> list[str]:
    """All public modules of the package except `besides`."""
    found = {name for folder in self._path for name in _modules(folder, _changed(folder))}
    return sorted(found - set(self._besides))

  def module(self, name: str) -> Any:
    """Module called `name`, or the namespace of a user's factory; a UserError lists the names."""
    check_name(self.names(), name, self.what)
    if name in self._own_names():
      return importlib.import_module(f'{self._package}.{name}')
    return self._user_module(name)

  def summary(self, name: str) -> str:
    """The first line of the module's docstring.

    Example:
      >>> from clr_jax import methods
      >>> methods.summary('sogclr')
      "SogCLR: Yuan et al., https://arxiv.org/abs/2202.12387 (the report's baseline)."
    """
    return (self.module(name).__doc__ or '').strip().partition('\n')[0]

  def _load(self, name: str) -> F:
    if name in self._own_names():
      return getattr(self.module(name), self._function or name)
    return self._user_module(name).factory


@functools.lru_cache(maxsize=256)
def _modules(folder: str, changed: int) -> tuple[str, ...]:
  """Public modules of a folder; cached, because a config needs them a hundred times."""
  del changed  # part of the cache's key
  found = (module.name for module in pkgutil.iter_modules([folder]))
  return tuple(name for name in found if not name.startswith('_'))


def _changed(folder: str) -> int:
  """Time of the folder's last change; 0 if folders have no times, as in a zip file."""
  try:
    return os.stat(folder).st_mtime_ns
  except OSError:
    return 0
