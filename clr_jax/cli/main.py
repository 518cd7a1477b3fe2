"""The command line `clr-jax`: parses the arguments, runs a command, ends with an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from clr_jax.cli.exit import report_error
from clr_jax.cli.parser import HELP, make_parser
from clr_jax.core.errors import EXIT_BAD_INPUT, UserError
from clr_jax.core.names import check_name


def main(argv: Sequence[str] | None = None) -> None:
  """Runs one command; the process ends with 0 or one of the codes of `clr_jax.core.errors`."""
  arguments = list(sys.argv if argv is None else argv)[1:]
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it prints the stack of what it raises
  parser, commands = make_parser()
  try:
    if not arguments or arguments[0] in (*HELP, 'help'):
      parser.print_help()
      raise SystemExit(0 if arguments else EXIT_BAD_INPUT)
    if arguments[0].startswith('-'):
      parser.parse(arguments)  # --version
    check_name(commands, arguments[0], 'command')
    command = commands[arguments[0]]
    command.run(*command.parse(arguments[1:]))
  except (UserError, KeyboardInterrupt) as error:
    raise SystemExit(report_error(error)) from None
  except BrokenPipeError:  # `clr-jax results | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0) from None
