"""Modules that a test adds to a package of the library, as a user does by adding a file."""

import contextlib
import importlib
import sys


@contextlib.contextmanager
def added(folder, package, modules):
  """Makes files {name: text} in `folder`, modules of `package` inside the context."""
  for name, text in modules.items():
    (folder / f'{name}.py').write_text(text)
  package.__path__.append(str(folder))
  importlib.invalidate_caches()
  try:
    yield
  finally:
    package.__path__.remove(str(folder))
    for name in modules:
      sys.modules.pop(f'{package.__name__}.{name}', None)
      vars(package).pop(name, None)
