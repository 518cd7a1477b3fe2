"""Settings of the C library's malloc for programs whose every step allocates the same blocks."""

from __future__ import annotations

import ctypes
import os
import pathlib
import platform

# Options of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_MADV_HUGEPAGE, _HUGE_PAGE = 14, 2**21  # of Linux's madvise; bytes
_OVERCOMMIT = pathlib.Path('/proc/sys/vm/overcommit_memory')


def keep_freed_memory() -> None:
  """Lets glibc keep the memory that a step frees, which the next step needs again.

  By default it returns large blocks to the system, and every step pays for all of its pages anew:
  half of the time of a large elementwise operation on a CPU. One arena, because others hold no
  block above 64 MiB, and no block mapped by itself. Call it before the process has threads, which
  bring arenas of their own. The user's own settings stay.
  """
  settings = ('GLIBC_TUNABLES', 'MALLOC_ARENA_MAX', 'MALLOC_MMAP_THRESHOLD_')
  if platform.libc_ver()[0] != 'glibc' or any(name in os.environ for name in settings):
    return
  libc = ctypes.CDLL(None)
  for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
    libc.mallopt(option, value)
  _use_huge_pages(libc)


def _use_huge_pages(libc: ctypes.CDLL) -> None:
  """Asks for pages of 2 MiB for what malloc returns from now on, where Linux has them.

  With pages of 4 KiB the transposes in a convolution's gradient wait for address translation half
  of their time. The heap grows by a block that is never touched: this takes addresses, no memory.
  Nothing changes where addresses are limited (`ulimit -v`, strict overcommit).
  """
  if _addresses_are_limited():
    return
  size = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 4
  libc.malloc.restype = ctypes.c_void_p
  block = libc.malloc(ctypes.c_size_t(size))
  if block is None:
    return
  start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
  length = (block + size - start) // _HUGE_PAGE * _HUGE_PAGE
  libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_HUGEPAGE)
  libc.free(ctypes.c_void_p(block))


def _addresses_are_limited() -> bool:
  """True if memory that is only reserved counts against a limit."""
  import resource  # late: Windows has none

  kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
  if any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds):
    return True
  try:
    return _OVERCOMMIT.read_text().strip() == '2'
  except OSError:
    return True
