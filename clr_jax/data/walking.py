"""Lists the images and other files below a folder; visits each real folder once."""

from __future__ import annotations

import os
import pathlib
import re
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


class Listing(NamedTuple):
  """Content of a folder tree.

  Attributes:
    images: relative paths with '/', sorted.
    skipped: numbers of files that are not read: 'sub-folder' ('' is the folder itself) -> kind ->
      number. Every sub-folder has an entry; a kind is a suffix or a few words.
  """

  images: list[str]
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


def list_images(folder: str) -> Listing:
  """All images below a folder.

  Links to folders are followed after all real folders are read, so that a folder with several
  links, or a link to a folder above it, gives each image once. A link to a folder above `folder`
  is not followed.

  Raises:
    UserError: a folder cannot be read, or a link points to nothing.
  """
  images: list[str] = []
  skipped: dict[str, Counter[str]] = {'': Counter()}
  visited: set[tuple[int, int]] = set()
  above = {_identity(str(parent)) for parent in pathlib.Path(os.path.realpath(folder)).parents}
  real, links = [''], []
  while real or links:
    prefix = real.pop() if real else links.pop(0)
    first = prefix.split('/', 1)[0]
    place = os.path.join(folder, prefix).rstrip('/') or '/'
    if prefix and _identity(place) in above:
      skipped[first][_ABOVE] += 1
      continue
    if not _first_visit(place, visited):
      skipped[first][REPEATED] += 1
      continue
    files, others = _files_first(place)
    for name in files:
      kind = name[dot:].lower() if (dot := name.rfind('.')) > 0 else ''
      if kind in _READ:
        images.append(prefix + name)
      else:
        skipped[first][kind or 'file without a suffix'] += 1
    for entry in others:
      name = f'{prefix}{entry.name}'
      if _is_folder(entry):
        skipped.setdefault(name.split('/', 1)[0], Counter())
        (links if entry.is_symlink() else real).append(f'{name}/')
      else:
        skipped[first][_SPECIAL] += 1  # reading a pipe could block forever
  return Listing(sorted(images), skipped)


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


def _first_visit(folder: str, visited: set[tuple[int, int]]) -> bool:
  key = _identity(folder)
  if key in visited:
    return False
  visited.add(key)
  return True


def _identity(folder: str) -> tuple[int, int]:
  try:
    found = os.stat(folder)
  except OSError as error:
    raise _unreadable(folder, error) from error
  return found.st_dev, found.st_ino


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
