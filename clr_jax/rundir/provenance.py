"""Provenance stored with every result: code, libraries, machine."""

from __future__ import annotations

import functools
import importlib.metadata
import pathlib
import subprocess

import jax

import clr_jax

_CODE = ('clr_jax', 'configs')
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
  """Version of the code: '0.1.0', or '0.1.0+g<commit>[.dirty]' in a git checkout.

  The commit is the last one that changed the code or the configs; changes of tests and documents
  do not count. Never fails: without git or on an error of git, it is the package's version.
  """
  root = pathlib.Path(clr_jax.__file__).resolve().parent.parent
  if not (root / '.git').exists():
    return clr_jax.__version__
  try:
    commit = _git(root, 'log', '-1', '--format=%h', '--abbrev=12', '--', *_CODE)
    dirty = '.dirty' if _git(root, 'status', '--porcelain', '--', *_CODE) else ''
  except (OSError, subprocess.SubprocessError):
    return clr_jax.__version__
  return f'{clr_jax.__version__}+g{commit}{dirty}'


def _git(root: pathlib.Path, *arguments: str) -> str:
  command = ['git', '--no-optional-locks', '-C', str(root), *arguments]
  done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
  return done.stdout.strip()


@functools.cache
def libraries() -> dict[str, str]:
  """Versions of the installed libraries on which results depend."""
  versions = {}
  for name in _LIBRARIES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def device() -> str:
  """All devices of all processes, such as '8 x cpu' or '1 x NVIDIA H200'."""
  return f'{jax.device_count()} x {jax.devices()[0].device_kind}'
