"""Settings of a command's own process before JAX starts."""

import types

import pytest

from clr_jax.cli import process


@pytest.fixture
def calls(monkeypatch):
  """The options that glibc's malloc is given."""
  found = {}
  library = types.SimpleNamespace(mallopt=found.__setitem__)
  monkeypatch.setattr(process.ctypes, 'CDLL', lambda name: library)
  monkeypatch.setattr(process.platform, 'libc_ver', lambda: ('glibc', '2.36'))
  for name in ('GLIBC_TUNABLES', 'MALLOC_ARENA_MAX', 'MALLOC_MMAP_THRESHOLD_'):
    monkeypatch.delenv(name, raising=False)
  return found


def test_freed_memory_is_kept(calls):
  process._keep_freed_memory()
  assert calls == {-8: 1, -3: 2**30, -1: 2**31 - 1}  # one arena, no mmap, no trimming


def test_the_users_own_settings_and_other_libraries_stay(calls, monkeypatch):
  monkeypatch.setattr(process.platform, 'libc_ver', lambda: ('', ''))
  process._keep_freed_memory()
  monkeypatch.setattr(process.platform, 'libc_ver', lambda: ('glibc', '2.36'))
  monkeypatch.setenv('MALLOC_ARENA_MAX', '4')
  process._keep_freed_memory()
  assert not calls
