"""How the command line sets up malloc."""

import pathlib
import subprocess
import sys
import types

import pytest

from clr_jax.cli import memory

THP = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')
# Prints the kilobytes of huge pages behind 64 MiB that were allocated, written and freed.
PROGRAM = """
import ctypes, re
{limit}
from clr_jax.cli.memory import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(2**26)))
ctypes.memset(block, 1, 2**26)
libc.free(block)
print(sum(map(int, re.findall('AnonHugePages: +([0-9]+)', open('/proc/self/smaps').read()))))
"""


@pytest.fixture
def calls(monkeypatch):
  """The options that glibc's malloc is given."""
  found = {}
  library = types.SimpleNamespace(mallopt=found.__setitem__)
  monkeypatch.setattr(memory.ctypes, 'CDLL', lambda name: library)
  monkeypatch.setattr(memory.platform, 'libc_ver', lambda: ('glibc', '2.36'))
  monkeypatch.setattr(memory, '_use_huge_pages', lambda libc: None)
  for name in ('GLIBC_TUNABLES', 'MALLOC_ARENA_MAX', 'MALLOC_MMAP_THRESHOLD_'):
    monkeypatch.delenv(name, raising=False)
  return found


def test_freed_memory_is_kept(calls):
  memory.keep_freed_memory()
  assert calls == {-8: 1, -4: 0, -1: -1}  # one arena, no mmap, no trimming


def test_the_users_own_settings_and_other_libraries_stay(calls, monkeypatch):
  monkeypatch.setattr(memory.platform, 'libc_ver', lambda: ('', ''))
  memory.keep_freed_memory()
  monkeypatch.setattr(memory.platform, 'libc_ver', lambda: ('glibc', '2.36'))
  monkeypatch.setenv('MALLOC_ARENA_MAX', '4')
  memory.keep_freed_memory()
  assert not calls


@pytest.mark.skipif(
  not THP.exists() or '[never]' in THP.read_text() or memory._addresses_are_limited(),
  reason='no huge pages on this machine',
)
@pytest.mark.parametrize('limited', [False, True])
def test_freed_memory_stays_in_huge_pages(limited):
  limit = 'import resource; resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))'
  program = PROGRAM.format(limit=limit if limited else '')
  found = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert (int(found.stdout) >= 60 * 1024) == (not limited)
