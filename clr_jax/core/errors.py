"""Errors that end a command, and the exit codes of the process. Imports no JAX."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

EXIT_FAILED = 1  # an unexpected error, or a run that cannot continue
EXIT_BAD_INPUT = 2
EXIT_LOST = 69  # EX_UNAVAILABLE: another process of the run is gone
EXIT_STALLED = 70  # EX_SOFTWARE: the watchdog ended the process
EXIT_CANNOT_WRITE = 74  # EX_IOERR
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: a launcher starts the same command again
EXIT_INTERRUPTED = 130  # the shell's code for Ctrl-C

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_FAILED = (errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN)
NOT_PERMITTED = (errno.EACCES, errno.EPERM)


class UserError(Exception):
  """Error for bad input; its message is one sentence that states the problem and the remedy.

  The command line prints it without a traceback and exits with EXIT_BAD_INPUT.
  """


@contextlib.contextmanager
def about(**keys: object) -> Iterator[None]:
  """Prepends keys and values to a UserError.

  It prepends the keys whose values the message quotes, or else the first one; a message that
  already names one stays unchanged. Two underscores stand for the dot of a key:
  `about(eval__data='npz:x.npz')`.
  """
  named = {key.replace('__', '.'): value for key, value in keys.items()}
  try:
    yield
  except UserError as error:
    text = str(error)
    if any(f'{key}=' in text for key in named):
      raise
    quoted = [key for key, value in named.items() if repr(value) in text] or list(named)[:1]
    for key in quoted:
      text = text.removeprefix(f'{named[key]}: ')  # once is enough
    raise UserError(f'{", ".join(f"{k}={named[k]}" for k in quoted)}: {text}') from error


class RunStopped(Exception):
  """Signals that a run ended early on purpose; `code` is the exit code of the process."""

  def __init__(self, message: str, code: int):
    super().__init__(message)
    self.code = code


class OtherProcessFailed(RunStopped):
  """The run cannot continue because another of its processes failed; that one prints the reason."""

  def __init__(self, process: int | None = None):
    which = 'another process' if process is None else f'process {process}'
    super().__init__(f'{which} of this run failed: its message says why', EXIT_BAD_INPUT)
