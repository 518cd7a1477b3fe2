"""Checksums of a checkpoint's files, which detect damage that the file formats do not."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from clr_jax.core.storage import atomic_write, first_line, is_local, read_file

# Lines 'CHECKSUM  NAME': files that exist when the checkpoint is complete, then files that Orbax
# writes when it makes the checkpoint visible.
_FILE, _LATE_FILE = 'checksums.txt', 'checksums_late.txt'
_LATE = ('_CHECKPOINT_METADATA', 'commit_success.txt')
_LINE = re.compile(r'(\S+)  (\S.*)')
_THREADS = min(4, os.cpu_count() or 1)


def write(folder: epath.Path) -> None:
  """Writes the checksums of the files of a complete checkpoint before it becomes visible."""
  known = _names(folder)
  _write(folder, _FILE, {name: known[name] for name in known if name not in _LATE})


def write_late(folder: epath.Path) -> None:
  """Adds the checksums of the few files that Orbax writes last; optional."""
  if not (folder / _FILE).exists():  # the save failed
    return
  known = _names(folder)
  _write(folder, _LATE_FILE, {name: known[name] for name in known if name in _LATE})


def damage(folder: epath.Path, part: int = 0, parts: int = 1) -> str:
  """Short description of the damage of a checkpoint; '' if it is intact or has no checksums.

  Args:
    folder: folder of a checkpoint. Checkpoints of earlier versions have no checksums.
    part: part to check; the processes of a run share the work.
    parts: number of parts.
  """
  try:
    known = _names(folder)
    wanted, late = _read(folder / _FILE), _read(folder / _LATE_FILE)
    if wanted is None:
      return ''
    if odd := wanted.keys() ^ {name for name in known if name not in _LATE}:
      name = min(odd)
      return f'{name} is missing' if name in wanted else f'{name} has no checksum'
    wanted |= late or {}
    mine = sorted(wanted)[part::parts]
    with ThreadPoolExecutor(_THREADS) as pool:
      sums = pool.map(lambda name: _checksum(folder, name, known.get(name, '')), mine)
      changed = [name for name, own in zip(mine, sums, strict=True) if own != wanted[name]]
  except (OSError, ValueError) as error:
    return first_line(error)
  return f'{changed[0]} has changed since it was written' if changed else ''


def _write(folder: epath.Path, file: str, known: Mapping[str, str]) -> None:
  with ThreadPoolExecutor(_THREADS) as pool:
    sums = pool.map(lambda name: _checksum(folder, name, known[name]), known)
    lines = [f'{checksum}  {name}\n' for checksum, name in zip(sums, known, strict=True)]
  atomic_write(folder / file, ''.join(lines))


def _read(file: epath.Path) -> dict[str, str] | None:
  """Checksums by name; None without a file. Raises ValueError if the file itself is damaged."""
  if not file.exists():
    return None
  matches = [_LINE.fullmatch(line) for line in read_file(file).decode().split('\n')[:-1]]
  found = {match[2]: match[1] for match in matches if match}
  if not found or len(found) < len(matches):
    raise ValueError(f'{file.name} is damaged')
  return found


def _names(folder: epath.Path) -> dict[str, str]:
  """{relative name: checksum in an object store, or ''}, sorted."""
  if is_local(folder):
    files = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
    found = {os.path.relpath(file, folder).replace(os.sep, '/'): '' for file in files}
  else:
    import fsspec  # with gcsfs, in the extra gcs

    store = fsspec.filesystem('gs')
    store.invalidate_cache()
    prefix = os.fspath(folder).partition('://')[2].rstrip('/')
    listing = store.find(prefix, detail=True)
    found = {
      name.removeprefix(f'{prefix}/'): f'{info.get("crc32c")}/{info.get("size")}'
      for name, info in listing.items()
    }
  # NFS keeps deleted files that are still open as .nfs...
  ours = (_FILE, _LATE_FILE)
  return {k: v for k, v in sorted(found.items()) if k not in ours and '.nfs' not in k}


def _checksum(folder: epath.Path, name: str, known: str) -> str:
  if known:  # reading the object would double the traffic
    return known
  if not os.path.isfile(folder / name):  # such as a pipe, which may never end
    raise OSError(f'{name} is not a regular file')
  with open(folder / name, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
