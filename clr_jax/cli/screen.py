"""Standard output and error that never fail: a command continues when they are closed.

Results of a run are in its files, so a closed pipe or terminal should not end it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator

# A closed pipe, a closed terminal, a closed descriptor.
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)
_STREAMS = {'stdout': 1, 'stderr': 2}


class LastingFile(io.FileIO):
  """A file descriptor whose writes never fail.

  Attributes:
    lost: error of a write that may matter, such as on a full disk.
  """

  lost: OSError | None = None

  def write(self, data) -> int:  # type: ignore (a memory view of bytes)
    """Writes data, or drops what cannot be written; returns the number of consumed bytes."""
    try:
      return super().write(data)
    except OSError as error:
      if error.errno in _GONE:
        _open_null(self.fileno())  # for the writes of C++, too
      else:
        self.lost = self.lost or error
      return len(data)


def open_closed_streams() -> None:
  """Opens closed descriptors among 0, 1 and 2 on the null device.

  Otherwise the next opened file or socket, such as a checkpoint, would receive what is written to
  standard output or error.
  """
  for number in (0, 1, 2):
    try:
      os.fstat(number)
    except OSError:
      _open_null(number)


@contextlib.contextmanager
def lasting_output() -> Iterator[list[LastingFile]]:
  """Replaces `sys.stdout` and `sys.stderr` if they are the process's own; yields their files."""
  before = {name: getattr(sys, name) for name in _STREAMS}
  files = []
  for name, stream in before.items():
    if stream is getattr(sys, f'__{name}__'):  # otherwise a test or a notebook has replaced it
      files.append(LastingFile(_STREAMS[name], 'w', closefd=False))
      setattr(sys, name, _text(files[-1], stream))
  try:
    yield files
  finally:
    for name, stream in before.items():
      if getattr(sys, name) is not stream:
        getattr(sys, name).flush()
      setattr(sys, name, stream)


def _text(file: LastingFile, like: io.TextIOWrapper | None) -> io.TextIOWrapper:
  if like is None:  # it was closed when the process began
    return io.TextIOWrapper(io.BufferedWriter(file), errors='backslashreplace', line_buffering=True)
  # Unbuffered (python -u) the text is written through to the file itself.
  buffer = file if like.write_through else io.BufferedWriter(file)
  return io.TextIOWrapper(
    buffer,  # type: ignore (Python does the same)
    encoding=like.encoding,
    # Names that cannot be encoded, such as non-UTF-8 bytes, must not end a command.
    errors='backslashreplace' if like.errors == 'strict' else like.errors,
    line_buffering=like.line_buffering,
    write_through=like.write_through,
  )


def _open_null(number: int) -> None:
  null = os.open(os.devnull, os.O_RDWR)
  if null != number:
    os.dup2(null, number)
    os.close(null)
