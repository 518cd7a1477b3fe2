"""Commands without a run start without JAX, and so at once."""

import subprocess
import sys

from clr_jax.cli.parser import make_parser

PROGRAM = """
import contextlib, io, sys
from clr_jax.cli import main

HEAVY = {'jax', 'flax', 'optax', 'orbax', 'tensorflow', 'matplotlib', 'scipy'}
for arguments in %r:
  said = io.StringIO()
  try:
    with contextlib.redirect_stdout(said):
      main.main(['clr-jax', *arguments])
  except SystemExit as ended:
    print(ended.code, *arguments, '->', said.getvalue().split()[0], *HEAVY & sys.modules.keys())
"""


def test_help_and_version_import_no_jax():
  help_of = [[name, '--help'] for name in make_parser()[1]]
  program = PROGRAM % [['--version'], ['--help'], [], *help_of]
  printed = subprocess.check_output([sys.executable, '-c', program], text=True, timeout=300)
  names = (
    'train',
    'sweep',
    'reproduce',
    'evaluate',
    'results',
    'inspect',
    'report',
    'export',
    'bench',
    'plan',
    'methods',
    'datasets',
  )
  expected = ['0 --version -> clr-jax', '0 --help -> usage:', '2 -> usage:']
  assert printed.splitlines() == expected + [f'0 {name} --help -> usage:' for name in names]


def test_bad_arguments_are_refused_without_jax():
  program = PROGRAM % [['tarin'], ['evaluate', 'liner'], ['inspect', 'curves'], ['train', '--x']]
  program = program.replace('said.getvalue().split()[0]', 'repr(said.getvalue())')
  printed = subprocess.check_output([sys.executable, '-c', program], text=True, timeout=300)
  assert printed.splitlines() == [
    "2 tarin -> ''",
    "2 evaluate liner -> ''",
    "2 inspect curves -> ''",
    "2 train --x -> ''",
  ]
