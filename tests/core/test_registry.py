"""Registries: names, factories, and what they make."""

import sys
from typing import Annotated

import pytest
from annotated_types import Ge

from clr_jax.core.errors import UserError
from clr_jax.core.registry import ModuleRegistry, Registry


def net(rows, *, width: Annotated[int, Ge(1)], depth: int = 2):
  return rows, width, depth


def test_a_registry_makes_what_its_factories_allow():
  registry = Registry('network', {'net': net})
  assert registry.names() == ['net'] and registry.factory('net') is net
  assert registry.make('net', 0, width=1) == (0, 1, 2)
  for options, message in (
    ({'width': 0}, 'width=0 is not allowed: give a whole number of at least 1'),
    ({'widht': 1}, "network 'net' has no option 'widht': did you mean 'width'?"),
    ({}, "network 'net' needs a value for width"),
  ):
    with pytest.raises(UserError) as error:
      registry.make('net', 0, **options)
    assert str(error.value).startswith(message)
  with pytest.raises(UserError, match="unknown network 'nett': did you mean 'net'"):
    registry.factory('nett')


def test_a_package_of_one_module_for_each_factory(tmp_path, monkeypatch):
  folder = tmp_path / 'shapes'
  folder.mkdir()
  (folder / '__init__.py').write_text('')
  (folder / 'circle.py').write_text('"""Round.\n\nMore."""\ndef circle(*, radius=1): return radius')
  (folder / 'broken.py').write_text('1 / 0')
  (folder / '_shared.py').write_text('')
  monkeypatch.syspath_prepend(tmp_path)
  registry = ModuleRegistry('shape', 'shapes', [str(folder)])
  assert registry.names() == ['broken', 'circle']  # nothing is imported for that
  assert registry.make('circle', radius=3) == 3
  assert registry.summary('circle') == 'Round.'
  with pytest.raises(UserError, match='unknown shape'):
    registry.factory('_shared')
  for name in ('shapes', 'shapes.circle'):
    monkeypatch.delitem(sys.modules, name, raising=False)
