"""Parses the arguments of `clr-jax`, runs a command, reports its errors."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from clr_jax.cli.exit import outcome_of, report_error
from clr_jax.cli.parser import HELP, make_parser
from clr_jax.core.errors import EXIT_BAD_INPUT, UserError
from clr_jax.core.names import check_name


def run(arguments: Sequence[str]) -> int | None:
  """Runs one command; returns the exit code, or None if the command completed."""
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it logs stacks of errors that it raises
  parser, commands = make_parser()
  try:
    if not arguments or arguments[0] in (*HELP, 'help'):
      parser.print_help()
      return 0 if arguments else EXIT_BAD_INPUT
    if arguments[0].startswith('-') and arguments[0] != '-':
      parser.parse(arguments)  # --version
    check_name(commands, arguments[0], 'command')
    command = commands[arguments[0]]
    command.run(*command.parse(arguments[1:]))
  except (UserError, OSError, ValueError, KeyboardInterrupt, SystemExit) as error:
    outcome = outcome_of(error)
    if outcome.message is None:
      raise
    return report_error(error, outcome)
  return None
