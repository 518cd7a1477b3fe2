"""The command line in this process."""

from clr_jax.cli import main as cli


def call(*arguments):
  """The exit code of `clr-jax ARGUMENTS`."""
  try:
    cli.main(['clr-jax', *map(str, arguments)])
  except SystemExit as ended:
    return ended.code
  return 0
