"""Factories by name: one calling convention for methods, models, policies, optimizers, ..."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Generic, TypeVar

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name, hint, listed
from clr_jax.core.options import check, keyword_only

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
    found = (module.name for module in pkgutil.iter_modules(self._path))
    return sorted(n for n in found if not n.startswith('_') and n not in self._besides)

  def module(self, name: str) -> Any:
    """The module called `name`; UserError lists the names."""
    check_name(self.names(), name, self.what)
    return importlib.import_module(f'{self._package}.{name}')

  def summary(self, name: str) -> str:
    """The first line of the module's docstring."""
    return (self.module(name).__doc__ or '').strip().partition('\n')[0]

  def _load(self, name: str) -> F:
    return getattr(self.module(name), self._function or name)


def refuse_changed(
  factory: Callable, options: Mapping[str, Any], *, prefix: str, reason: str
) -> None:
  """UserError for one of the options that is not as in `factory`'s signature: nothing reads it.

  Args:
    prefix: of the options in the config, such as 'method'.
    reason: why nothing does, and what to change.
  """
  for key, parameter in keyword_only(factory).items():
    if key in options and parameter.default not in (parameter.empty, options[key]):
      raise UserError(f'{prefix}.{key}={options[key]} does nothing {reason}')


def check_options(
  what: str,
  factory: Callable,
  options: Collection[str],
  *,
  given: Collection[str] = (),
  rest: Callable | None = None,
  complete: bool = True,
) -> None:
  """UserError unless `options` (names, or a dict) are options of `factory`.

  Args:
    what: names the factory in the message, such as "model 'resnet18'".
    given: options that the library fills in and that nobody else may set.
    rest: where a factory with `**kwargs` hands these on; without it, they are not checked here.
    complete: options without a default must be there.
  """
  kinds = {p.kind for p in inspect.signature(factory).parameters.values()}
  passes_on = inspect.Parameter.VAR_KEYWORD in kinds
  own = keyword_only(factory)
  handed_on = keyword_only(rest) if rest and passes_on else {}
  known = {k: p for k, p in {**own, **handed_on, **own}.items() if k not in given}
  for key in options if rest or not passes_on else ():
    if key not in known:
      raise UserError(f'{what} has no option {key!r}: {hint(key, known)}it takes {listed(known)}')
  for key, parameter in known.items():
    if complete and parameter.default is parameter.empty and key not in options:
      raise UserError(f'{what} needs a value for {key}')
