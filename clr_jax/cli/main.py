"""Entry point of the command line `clr-jax`, which imports slow modules late."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from clr_jax.cli.memory import keep_freed_memory
from clr_jax.cli.screen import lasting_output, open_closed_streams
from clr_jax.core.errors import EXIT_CANNOT_WRITE
from clr_jax.core.signals import StopSignals


def main(argv: Sequence[str] | None = None) -> None:
  """Runs one command; the exit code is 0 or one of the codes in `clr_jax.core.errors`.

  Handles SIGTERM, SIGHUP and Ctrl-C from here on, see `clr_jax.core.signals`.

  Args:
    argv: arguments; None = those of this process, which ends with the command.
  """
  if argv is None:
    keep_freed_memory()
  open_closed_streams()  # before anything is opened, such as the sockets of the signals
  arguments = list(sys.argv if argv is None else argv)[1:]
  with StopSignals(ignored_after=argv is None) as stop, lasting_output() as files:
    # Imported late: the commands take a second or more to import, during which signals may arrive.
    from clr_jax.cli.run import run

    code = run(arguments)
    sys.stdout.flush()
    lost = next((file.lost for file in files if file.lost is not None and file.name == 1), None)
    if lost is not None and not code:
      reason = f'standard output cannot be written ({lost.strerror})'
      print(f'clr-jax: {reason}: free disk space, or write it elsewhere', file=sys.stderr)
      code = EXIT_CANNOT_WRITE
    if stop.received is not None:
      stop.claim()  # blocks if the process is being ended
      stop.exit(code or 0)
  if code is not None:
    raise SystemExit(code)
