"""Maps exceptions to a one-line message and an exit code. Imports no JAX."""

from __future__ import annotations

import os
import sys
import traceback
import unicodedata
from typing import NamedTuple

from clr_jax.core.errors import (
  DISK_FAILED,
  DISK_FULL,
  EXIT_BAD_INPUT,
  EXIT_CANNOT_WRITE,
  EXIT_FAILED,
  EXIT_INTERRUPTED,
  NOT_PERMITTED,
  RunStopped,
  UserError,
)


class Outcome(NamedTuple):
  """Exit code and message of an error.

  Attributes:
    code: exit code.
    message: one line for standard error, '' for none; None for an unexpected error, which is
      printed with its traceback.
  """

  code: int
  message: str | None


def outcome_of(error: BaseException) -> Outcome:
  """Exit code and message of an error."""
  if isinstance(error, UserError):
    return Outcome(EXIT_BAD_INPUT, str(error))
  if isinstance(error, RunStopped):
    return Outcome(error.code, str(error))
  if isinstance(error, KeyboardInterrupt):
    return Outcome(EXIT_INTERRUPTED, 'interrupted: run the same command to resume')
  if isinstance(error, SystemExit):
    return Outcome(error.code if isinstance(error.code, int) else 0, '')
  if isinstance(error, OSError) and error.filename is not None:
    return _of_disk(error)
  if isinstance(error, ValueError) and (name := _setting_of_jax(error)):
    reason = f'{name}={os.environ[name]} cannot be read by JAX ({error})'
    return Outcome(EXIT_BAD_INPUT, f'{reason}: correct it, or unset it')
  return Outcome(EXIT_FAILED, None)


def _of_disk(error: OSError) -> Outcome:
  place = f'{os.fsdecode(error.filename)} ({error.strerror})'
  if error.errno in NOT_PERMITTED:
    return Outcome(EXIT_BAD_INPUT, f'no access to {place}: make it accessible or give another path')
  if error.errno in (*DISK_FULL, *DISK_FAILED):
    mend = 'free disk space' if error.errno in DISK_FULL else 'check that the disk can be used'
    return Outcome(EXIT_CANNOT_WRITE, f'cannot write or read {place}: {mend}')
  return Outcome(EXIT_FAILED, None)


def _setting_of_jax(error: ValueError) -> str | None:
  """The environment variable that JAX could not read when it was imported, if that failed."""
  frame = [*traceback.walk_tb(error.__traceback__)][-1:]
  if not frame or not frame[0][0].f_code.co_filename.endswith('jax/_src/config.py'):
    return None
  values = frame[0][0].f_locals
  name = str(values.get('varname') or values.get('name')).upper()
  return name if name in os.environ else None


def report_error(error: BaseException, outcome: Outcome | None = None) -> int:
  """Prints the message of an error, or its traceback; returns the exit code."""
  code, message = outcome or outcome_of(error)
  if message is None:
    traceback.print_exception(error)
  elif message:
    print(f'clr-jax: {_in_one_line(message)}', file=sys.stderr, flush=True)
  return code


def _in_one_line(message: str) -> str:
  """Escapes line breaks and other control characters, such as those of names."""
  return ''.join(repr(c)[1:-1] if unicodedata.category(c) == 'Cc' else c for c in message)
