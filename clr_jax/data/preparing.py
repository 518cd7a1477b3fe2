"""Preparation of a TFDS data set at its first use, in a child process with TensorFlow."""

from __future__ import annotations

import difflib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping

from absl import logging
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.storage import first_line

# TFDS prepares only the archives that it finds; a missing split then stays missing.
_ARCHIVES: Mapping[str, tuple[str, ...]] = {
  'imagenet2012': ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'),
}


def check(name: str, bare_name: str, root: epath.Path) -> None:
  """Refuses data sets that cannot be prepared; creates nothing.

  Args:
    name: 'cifar10', 'name/config' or 'name:1.2.3'.
    bare_name: the part of it that TFDS lists.

  Raises:
    UserError: unknown name, no TensorFlow or other package, or archives that only the user can
      fetch.
  """
  from tensorflow_datasets.core import load  # 0.4 s to import, for TFDS names only

  # Community data sets need the network and TensorFlow just to be listed.
  known = load.list_builders(with_community_datasets=False)
  if bare_name not in known:
    close = difflib.get_close_matches(bare_name, [*known, 'digits'], n=3)
    hint = f': did you mean {" or ".join(close)}?' if close else ''
    raise UserError(f'there is no data set {name!r}, neither in TFDS nor prepared in {root}{hint}')
  try:
    builder_cls = load.builder_cls(bare_name)
  except ImportError as error:
    raise UserError(
      f"TFDS's code of {name} needs a package that is missing ({first_line(error)}): install it"
    ) from error
  _check_archives(builder_cls, name, root)
  if importlib.util.find_spec('tensorflow') is None:
    raise UserError(
      f'{name} is not prepared in {root} yet, and preparing it needs TensorFlow, once: '
      "pip install 'clr-jax[tfds]'"
    )


def prepare(name: str, root: epath.Path) -> None:
  """Prepares a data set below `root` in a child process: TensorFlow never enters this one.

  Raises:
    UserError: it fails, with TFDS's reason.
  """
  logging.info('Preparing the TFDS data set %s in %s (once, in a child process).', name, root)
  print(f'Preparing {name} in {root}, once (a child process with TensorFlow) ...', file=sys.stderr)
  command = [sys.executable, '-m', 'clr_jax.data.prepare_tfds', name, f'--data_dir={root}']
  read, write = os.pipe()  # closing it ends the child, as the death of this process does
  try:
    child = subprocess.run(
      [*command, '--with_parent'], stdin=read, stdout=subprocess.PIPE, text=True, check=False
    )
  finally:
    os.close(read)
    os.close(write)
  if child.returncode:
    reason = (child.stdout.strip().splitlines() or ['it was killed'])[-1]
    raise UserError(f'preparing {name} failed: {reason}')


def _check_archives(builder_cls: type, name: str, root: epath.Path) -> None:
  """Refuses a data set that TFDS cannot download, unless its archives are there."""
  how = getattr(builder_cls, 'MANUAL_DOWNLOAD_INSTRUCTIONS', None)
  folder = root / 'downloads' / 'manual'
  archives = _ARCHIVES.get(builder_cls.name, ())  # type: ignore
  found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
  missing = [archive for archive in archives if archive not in found]
  if not how or (found and not missing):
    return
  raise UserError(
    f'{name} is not prepared in {root} yet, and TFDS cannot download it: put '
    f'{" and ".join(missing) or "its archives"} into {folder} (links will do); TFDS says: '
    f'{" ".join(how.split())}'
  )
