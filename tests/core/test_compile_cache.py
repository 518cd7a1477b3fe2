"""The cache of compiled programs: damaged entries go, its size is bounded."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import zlib

import jax
import pytest

from clr_jax.core import compile_cache

PROGRAM = """
import jax, jax.numpy as jnp
from clr_jax.core import compile_cache
compile_cache._MIN_SECONDS = 0.0
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
assert str(compile_cache.use()) == {folder!r}
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))
print(sum('cache_hits' in name for name in hits), sum('cache_misses' in name for name in hits))
"""

# Before PROGRAM: the first file of the cache is written by half.
KILL = """
import os, pathlib, signal
from etils import epath

def write_half(self, content):
  with open(self, 'wb') as file:
    file.write(content[:len(content) // 2])
  os.kill(os.getpid(), signal.SIGKILL)

pathlib.Path.write_bytes = type(epath.Path('.')).write_bytes = write_half
"""


def entry(place, name, content=b'program', age=0.0):
  path = place / f'{name}-cache'
  path.write_bytes(zlib.compress(content * 1000))
  os.utime(path, (1e9 - age, 1e9 - age))
  return path


def names(place):
  return sorted(path.name for path in place.glob('*-cache'))


def test_damaged_entries_are_deleted(tmp_path):
  whole, cut, flipped = (entry(tmp_path, name) for name in 'abc')
  cut.write_bytes(cut.read_bytes()[:-5])  # killed while it was written
  compile_cache.tidy(tmp_path)
  assert names(tmp_path) == ['a-cache', 'c-cache']
  content = bytearray(flipped.read_bytes())
  content[9] ^= 1
  flipped.write_bytes(content)
  compile_cache.tidy(tmp_path)
  assert names(tmp_path) == [whole.name]
  assert list(json.loads((tmp_path / 'checksums.json').read_text())) == [whole.name]


@pytest.mark.parametrize('content', ['', '[1]', '{"a-cache": 5}', 'nonsense'])
def test_damaged_checksums_cost_entries_at_most(tmp_path, content):
  entry(tmp_path, 'b')
  (tmp_path / 'checksums.json').write_text(content)
  compile_cache.tidy(tmp_path)
  assert names(tmp_path) == ['b-cache']


def test_the_oldest_go_above_the_bound(tmp_path):
  entries = [entry(tmp_path, 'a', age=9), entry(tmp_path, 'b', age=1), entry(tmp_path, 'c', age=5)]
  compile_cache.tidy(tmp_path, max_bytes=sum(path.stat().st_size for path in entries) - 1)
  assert names(tmp_path) == ['b-cache', 'c-cache']


def test_the_users_cache_stays():
  assert jax.config.jax_compilation_cache_dir  # that of the tests
  assert compile_cache.use.__wrapped__() is None


def of_a_new_user(tmp_path):
  """Environment, folder and PROGRAM of a user without a cache."""
  environment = {k: v for k, v in os.environ.items() if not k.startswith('JAX_')}
  environment |= {'XDG_CACHE_HOME': os.fspath(tmp_path), 'JAX_PLATFORMS': 'cpu'}
  place = tmp_path / 'clr_jax' / 'programs' / compile_cache.folder().name
  return environment, place, PROGRAM.format(folder=os.fspath(place))


@pytest.mark.weekly
def test_a_sigkill_while_an_entry_is_written(tmp_path):
  """Half of an entry is left; the next process compiles the program, silently, and caches it."""
  environment, place, program = of_a_new_user(tmp_path)
  command = [sys.executable, '-W', 'error', '-c']
  killed = subprocess.run([*command, KILL + program], env=environment, timeout=300)
  assert killed.returncode == -signal.SIGKILL and len(names(place)) == 1
  for found in ('0 ', ''):
    done = subprocess.run(
      [*command, program], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert not done.stderr and done.stdout.startswith(found)
  hits, misses = map(int, done.stdout.split())
  assert hits > 0 and misses == 0


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path):
  environment, place, program = of_a_new_user(tmp_path)

  def run() -> list[int]:
    command = [sys.executable, '-W', 'error', '-c', program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert not done.stderr
    return [int(word) for word in done.stdout.split()]

  hits, misses = run()
  assert hits == 0 and misses > 0 and len(names(place)) == misses
  assert run() == [misses, 0]
  for path in map(pathlib.Path, place.glob('*-cache')):
    path.write_bytes(path.read_bytes()[:-9])
  assert run() == [0, misses]
  assert run() == [misses, 0]
  off = subprocess.run(
    [sys.executable, '-c', 'from clr_jax.core import compile_cache; print(compile_cache.use())'],
    env=environment | {'JAX_ENABLE_COMPILATION_CACHE': '0'},
    capture_output=True,
    text=True,
    check=True,
  )
  assert off.stdout.strip() == 'None'
