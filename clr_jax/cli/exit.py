"""Maps exceptions to a one-line message and an exit code. Imports no JAX."""

from __future__ import annotations

import sys
import traceback
from typing import NamedTuple

from clr_jax.core.errors import (
  EXIT_BAD_INPUT,
  EXIT_FAILED,
  EXIT_INTERRUPTED,
  RunStopped,
  UserError,
)


class Outcome(NamedTuple):
  """Exit code and message of an error.

  Attributes:
    code: exit code.
    message: one line for standard error, '' for none; None for an unexpected error, which is shown
      with its traceback.
  """

  code: int
  message: str | None


def outcome_of(error: BaseException) -> Outcome:
  """The exit code and the message of an error."""
  if isinstance(error, UserError):
    return Outcome(EXIT_BAD_INPUT, str(error))
  if isinstance(error, RunStopped):
    return Outcome(error.code, str(error))
  if isinstance(error, KeyboardInterrupt):
    return Outcome(EXIT_INTERRUPTED, 'interrupted: the same command goes on')
  if isinstance(error, SystemExit):
    return Outcome(error.code if isinstance(error.code, int) else 0, '')
  return Outcome(EXIT_FAILED, None)


def report_error(error: BaseException, outcome: Outcome | None = None) -> int:
  """Prints the message of an error, or its traceback; returns the exit code."""
  code, message = outcome or outcome_of(error)
  if message is None:
    traceback.print_exception(error)
  elif message:
    print(f'clr-jax: {message}', file=sys.stderr, flush=True)
  return code
