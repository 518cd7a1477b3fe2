"""Errors that end a command, and the exit codes of the process. Imports no JAX."""

from __future__ import annotations

EXIT_FAILED = 1  # an unexpected error, or a run that cannot continue
EXIT_BAD_INPUT = 2
EXIT_LOST = 69  # EX_UNAVAILABLE: another process of the run is gone
EXIT_STALLED = 70  # EX_SOFTWARE: the watchdog ended the process
EXIT_CANNOT_WRITE = 74  # EX_IOERR
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: a launcher starts the same command again
EXIT_INTERRUPTED = 130  # the shell's code for Ctrl-C


class UserError(Exception):
  """Bad input: the message is one sentence that says what is wrong and what to change.

  The command line prints it without a traceback and exits with EXIT_BAD_INPUT.
  """


class RunStopped(Exception):
  """The run ended early on purpose: `code` is the process's exit code."""

  def __init__(self, message: str, code: int):
    super().__init__(message)
    self.code = code
