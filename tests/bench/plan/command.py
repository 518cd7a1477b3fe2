"""`clr-jax plan` in a process of its own, as a user starts it: without the settings of tests."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

_OF_TESTS = ('JAX_', 'XLA_FLAGS')


def plan(target, package, *options):
  """The report as JSON values; skips where the compiler's package is not installed."""
  try:
    found = importlib.util.find_spec(package)
  except ModuleNotFoundError:
    found = None
  if found is None:
    pytest.skip(f'no compiler for {target}')
  env = {key: value for key, value in os.environ.items() if not key.startswith(_OF_TESTS)}
  command = [sys.executable, '-m', 'clr_jax', 'plan', f'--target={target}', '--json', *options]
  done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env=env)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)
