"""Lists the images and other files below a folder; visits each real folder once.

The last listings are kept: a start opens a data set several times, and listing 200,000 files takes
half a second. A kept listing is used while all of its folders have the times of change that they
had.
"""

from __future__ import annotations

import os
import pathlib
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from clr_jax.core.errors import UserError

EXTENSIONS = (
  *('.jpg', '.jpeg', '.png', '.bmp', '.webp'),
  *('.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.pnm', '.jpe', '.jfif'),
)
"""Suffixes of the files that are read, in upper case too."""
_READ = frozenset(EXTENSIONS)
# Suffixes of likely images that are not read.
UNREAD_IMAGES = frozenset(
  """
  .gif .apng .avif .heic .heif .jp2 .j2k .jxl .jxr .svg .tga .ico .psd .exr .hdr .pfm .raw .dng
  .cr2 .cr3 .nef .arw .dcm .nii .mha .nrrd .svs .ndpi .czi .lif .nd2 .fits .mat .npy .npz .h5
  .hdf5 .pt .pkl .tfrecord .tar .zip .gz
  """.split()  # noqa: SIM905
)
# Files that operating systems leave in folders, besides names with a dot.
_SYSTEM = ('__macosx', '@eadir', '$recycle.bin', 'system volume information', 'lost+found')
REPEATED = 'link to a folder that is read already'
_ABOVE = 'link to a folder above the data'
_SPECIAL = 'special file'  # a pipe, a socket, a device
_MOST_KINDS = 6  # in a sentence
_KEPT = 4  # listings
# Files that are added within one tick of a folder's clock do not change its time: a listing is kept
# only if its folders have been at rest for so many nanoseconds (a FAT's tick is 2 s).
_AT_REST = 3_000_000_000


class Listing(NamedTuple):
  """Content of a folder tree.

  Attributes:
    images: relative paths with '/', sorted.
    folders: relative paths of the sub-folders that hold some of them, '' for the folder itself.
    skipped: numbers of files that are not read: 'sub-folder' ('' is the folder itself) -> kind ->
      number. Every sub-folder has an entry; a kind is a suffix or a few words.
  """

  images: list[str]
  folders: frozenset[str]
  skipped: Mapping[str, Counter[str]]

  def skipped_kinds(self) -> Counter[str]:
    """Kind -> number in all sub-folders."""
    return sum(self.skipped.values(), Counter())


def visible(name: str) -> bool:
  """False for hidden files and leftovers of operating systems."""
  return not name.startswith('.') and name.lower() not in _SYSTEM


def entries(folder: str) -> list[os.DirEntry[str]]:
  """The visible entries of a folder, sorted by name.

  Raises:
    UserError: it cannot be read.
  """
  return sorted(_scanned(folder), key=lambda e: e.name)


def _scanned(folder: str) -> list[os.DirEntry[str]]:
  try:
    with os.scandir(folder) as found:
      return [entry for entry in found if visible(entry.name)]
  except OSError as error:
    raise _unreadable(folder, error) from error


def sub_folders(folder: str) -> Iterator[str]:
  """Names of the visible sub-folders, sorted; UserError if the folder cannot be read."""
  return (entry.name for entry in entries(folder) if _is_folder(entry))


_listings: dict[str, tuple[Listing, dict[str, int]]] = {}


def list_images(folder: str) -> Listing:
  """All images below a folder.

  Links to folders are followed after all real folders are read, so that a folder with several
  links, or a link to a folder above it, gives each image once. A link to a folder above `folder`
  is not followed.

  Raises:
    UserError: a folder cannot be read, or a link points to nothing.
  """
  key = os.path.abspath(folder)
  listing, changed = _listings.pop(key, (None, {}))
  if listing is None or not _at_rest_since(changed):
    start = time.time_ns()
    listing, changed = _list_images(folder)
    if max(changed.values()) > start - _AT_REST:
      return listing
  _listings[key] = listing, changed
  for oldest in [*_listings][:-_KEPT]:
    del _listings[oldest]
  return listing


def _at_rest_since(changed: Mapping[str, int]) -> bool:
  try:
    return all(_changed(os.stat(place)) == then for place, then in changed.items())
  except OSError:
    return False


def _list_images(folder: str) -> tuple[Listing, dict[str, int]]:
  """The listing, and the time of change of each folder that was read."""
  images: list[str] = []
  folders: set[str] = set()
  skipped: dict[str, Counter[str]] = {'': Counter()}
  visited: set[tuple[int, int]] = set()
  changed: dict[str, int] = {}
  above = {_identity(_status(str(up))) for up in pathlib.Path(os.path.realpath(folder)).parents}
  real, links = [''], []
  while real or links:
    prefix = real.pop() if real else links.pop(0)
    first = prefix.split('/', 1)[0]
    place = os.path.join(folder, prefix).rstrip('/') or '/'
    status = _status(place)
    if prefix and _identity(status) in above:
      skipped[first][_ABOVE] += 1
      continue
    if _identity(status) in visited:
      skipped[first][REPEATED] += 1
      continue
    visited.add(_identity(status))
    changed[os.path.abspath(place)] = _changed(status)
    files, others = _files_first(place)
    for name in files:
      kind = name[dot:].lower() if (dot := name.rfind('.')) > 0 else ''
      if kind in _READ:
        images.append(prefix + name)
        folders.add(prefix[:-1])
      else:
        skipped[first][kind or 'file without a suffix'] += 1
    for entry in others:
      name = f'{prefix}{entry.name}'
      if _is_folder(entry):
        skipped.setdefault(name.split('/', 1)[0], Counter())
        (links if entry.is_symlink() else real).append(f'{name}/')
      else:
        skipped[first][_SPECIAL] += 1  # reading a pipe could block forever
  return Listing(sorted(images), frozenset(folders), skipped), changed


def _files_first(folder: str) -> tuple[list[str], list[os.DirEntry[str]]]:
  """(sorted names of the visible files, the other entries sorted), in one pass: there are many."""
  files, others = [], []
  for entry in _scanned(folder):
    if _is_file(entry):
      files.append(entry.name)
    else:
      others.append(entry)
  return sorted(files), sorted(others, key=lambda e: e.name)


def counted(kinds: Mapping[str, int]) -> str:
  """'12 .txt, 3 .gif': the most frequent kinds first."""
  rows = sorted(kinds.items(), key=lambda row: (-row[1], row[0]))
  texts = [f'{n:,} {_plural(kind, n)}' for kind, n in rows[:_MOST_KINDS]]
  rest = sum(n for _, n in rows[_MOST_KINDS:])
  return ', '.join(texts + [f'{rest:,} others'] * bool(rest))


def looks_like_images(kinds: Iterable[str]) -> list[str]:
  """Kinds of skipped files that are likely to be images, sorted."""
  return sorted(UNREAD_IMAGES.intersection(kinds))


def _plural(kind: str, n: int) -> str:
  return kind if n == 1 else re.sub(r'\b(file|link)\b', r'\1s', kind, count=1)


def _status(folder: str) -> os.stat_result:
  try:
    return os.stat(folder)
  except OSError as error:
    raise _unreadable(folder, error) from error


def _changed(status: os.stat_result) -> int:
  return max(status.st_mtime_ns, status.st_ctime_ns)  # copying tools set the first alone


def _identity(status: os.stat_result) -> tuple[int, int]:
  return status.st_dev, status.st_ino


def _is_file(entry: os.DirEntry[str]) -> bool:
  """True if an entry is a file or a link to one; False if that cannot be found out."""
  try:
    return entry.is_file()
  except OSError:
    return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
  """True if an entry is a folder or a link to one; raises UserError for a broken link."""
  try:
    if entry.is_dir():
      return True
    if entry.is_symlink():
      os.stat(entry.path)
  except FileNotFoundError as error:
    raise UserError(
      f'the link {entry.path} points to nothing: restore what it points to, or remove the link'
    ) from error
  except OSError as error:
    raise _unreadable(entry.path, error) from error
  return False


def _unreadable(path: str, error: OSError) -> UserError:
  return UserError(
    f'cannot read the folder {path} ({error.strerror or error}): make it readable, or remove it '
    'from the data'
  )
