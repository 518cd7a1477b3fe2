"""JAX's persistent cache of compiled programs, which saves compilation at the second start."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import warnings
import zlib

import jax
from etils import epath

from clr_jax.core.storage import atomic_write, cache_folder

MAX_BYTES = 512 * 2**20
_MIN_SECONDS = 0.2  # shortest compilation to cache; reading a file takes time, too
_CHECKSUMS = 'checksums.json'


@functools.cache
def use() -> pathlib.Path | None:
  """Makes JAX cache the compiled programs of this process in `folder()` from now on.

  Does nothing if the user has set a cache (JAX_COMPILATION_CACHE_DIR) or switched it off
  (JAX_ENABLE_COMPILATION_CACHE=0), or if the folder cannot be written. Deletes incomplete and
  damaged entries, and the oldest ones above MAX_BYTES.

  Returns:
    The folder, or None if it did nothing.
  """
  # Settings that are missing in JAX's type stubs.
  given, enabled = jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache  # pyright: ignore
  if given or not enabled:
    return None
  try:
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    if not os.access(place, os.W_OK):
      return None
    tidy(place)
  except (OSError, RuntimeError):  # RuntimeError: there is no home directory
    return None
  jax.config.update('jax_compilation_cache_dir', os.fspath(place))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', _MIN_SECONDS)
  # Another process may be writing the entry that this one reads; JAX then compiles the program.
  warnings.filterwarnings('ignore', message='Error (reading|writing) persistent compilation cache')
  return place


def folder() -> pathlib.Path:
  """Folder for this version of jaxlib and this kind of processor, which programs depend on."""
  version = importlib.metadata.version('jaxlib')
  return cache_folder() / 'programs' / f'jaxlib-{version}-{_processor()}'


def _processor() -> str:
  """Short name of this CPU's features, which compiled programs may use."""
  info = pathlib.Path('/proc/cpuinfo')
  text = info.read_text() if info.exists() else f'{platform.machine()} {platform.processor()}'
  features = set(re.findall(r'^(?:model name|flags|Features).*', text, re.M)) or {text}
  return hashlib.sha256('\n'.join(sorted(features)).encode()).hexdigest()[:12]


def tidy(place: pathlib.Path, *, max_bytes: int = MAX_BYTES) -> None:
  """Deletes damaged entries, and the oldest ones above `max_bytes`.

  The checksum of an entry is stored when it is first found intact.

  Raises:
    OSError: `place` cannot be read.
  """
  known = _read_checksums(place)
  checksums: dict[str, int] = {}
  entries = sorted(place.glob('*-cache'), key=_last_use, reverse=True)
  total = 0
  for entry in entries:
    try:
      content = entry.read_bytes()
    except FileNotFoundError:  # another process has deleted it
      continue
    checksum = zlib.crc32(content)
    whole = known[entry.name] == checksum if entry.name in known else _decompresses(content)
    total += len(content)
    if whole and total <= max_bytes:
      checksums[entry.name] = checksum
    else:
      entry.unlink(missing_ok=True)
  if checksums != known:
    atomic_write(epath.Path(place) / _CHECKSUMS, json.dumps(checksums))


def _last_use(entry: pathlib.Path) -> float:
  with contextlib.suppress(FileNotFoundError):
    stat = entry.stat()
    return max(stat.st_atime, stat.st_mtime)
  return 0.0


def _read_checksums(place: pathlib.Path) -> dict[str, int]:
  try:
    found = json.loads((place / _CHECKSUMS).read_bytes())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def _decompresses(content: bytes) -> bool:
  """True if an entry is intact: JAX compresses them by zstd if it can be imported, else by zlib."""
  try:
    if content.startswith(b'\x28\xb5\x2f\xfd'):
      # Optional, but JAX has used it to write the entry.
      import zstandard  # pyright: ignore[reportMissingImports]

      zstandard.ZstdDecompressor().decompress(content)
    else:
      zlib.decompress(content)
  except Exception:  # exceptions of several libraries
    return False
  return True
