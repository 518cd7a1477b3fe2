"""What a number must be stamped with to be believed later: code, libraries, machine."""

from __future__ import annotations

import functools
import importlib.metadata
import pathlib
import subprocess

import jax

import clr_jax

_LIBRARIES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  'tensorflow-datasets',
)


@functools.cache
def code_version() -> str:
  """'0.1.0', from a git checkout '0.1.0+g<commit>', with '.dirty' if files differ from it.

  Never fails: without git, or where git refuses, it is the package's version.
  """
  root = pathlib.Path(clr_jax.__file__).resolve().parent.parent
  if not (root / '.git').exists():
    return clr_jax.__version__
  try:
    commit = _git(root, 'rev-parse', '--short=12', 'HEAD')
    dirty = '.dirty' if _git(root, 'status', '--porcelain', '--', 'clr_jax', 'configs') else ''
  except (OSError, subprocess.SubprocessError):
    return clr_jax.__version__
  return f'{clr_jax.__version__}+g{commit}{dirty}'


def _git(root: pathlib.Path, *arguments: str) -> str:
  command = ['git', '--no-optional-locks', '-C', str(root), *arguments]
  done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
  return done.stdout.strip()


@functools.cache
def libraries() -> dict[str, str]:
  """Versions of the libraries that numbers depend on, of those that are installed."""
  versions = {}
  for name in _LIBRARIES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def device() -> str:
  """All devices of all processes: '8 x cpu', '1 x NVIDIA H200'."""
  return f'{jax.device_count()} x {jax.devices()[0].device_kind}'
