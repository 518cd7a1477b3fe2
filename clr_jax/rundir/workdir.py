"""Paths in the directory of a run:

  config.json, config-<n>.json   the config and its later changes
  data.json  parameters.txt      facts about the training images; every array of the state
  checkpoints/                   see clr_jax.rundir.checkpoint
  metrics/                       see clr_jax.rundir.metrics
  tensorboard/  metrics.csv  wandb/   see clr_jax.rundir.loggers
  results/                       one file per measurement
  damaged/                       damaged checkpoints
  features/  figures/  profile/  cached features, figures, profiler traces, as needed
  .lock                          identification of the writing process

Object stores neither append nor rename, so each file is written once, as a whole, and readers merge
files. Only process 0 writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.storage import check_path, files_in, is_local

_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)
_NUMBER = re.compile(r'(?<!\d)\d{20}(?!\d)')

FOLDERS = (
  *('checkpoints', 'metrics', 'results', 'tensorboard'),
  *('damaged', 'features', 'figures', 'profile'),
)
"""All folders of a run."""


class Workdir:
  """Paths of a run's directory, local or in an object store; creates nothing.

  Raises:
    UserError: an unsupported path, see `check_path`.
  """

  def __init__(self, path: epath.PathLike):
    check_path(path)
    path = epath.Path(path).expanduser()
    self.path = epath.Path(os.path.abspath(path)) if is_local(path) else path
    self.checkpoints = self.path / 'checkpoints'
    self.metrics = self.path / 'metrics'
    self.results = self.path / 'results'
    self.tensorboard = self.path / 'tensorboard'

  def __repr__(self) -> str:
    return f'Workdir({os.fspath(self.path)!r})'


def next_number(folder: epath.Path) -> int:
  """A number above those in the names of all files of a folder, which have 20 digits.

  Files are read in the order of their names. No clock is used, because it may be set back. (Earlier
  versions used nanoseconds since 1970.)
  """
  numbers = (_NUMBER.search(path.name) for path in files_in(folder))
  return max((int(number[0]) for number in numbers if number), default=0) + 1


@contextlib.contextmanager
def refuse_no_place(run: Workdir) -> Iterator[None]:
  """Raises a UserError for an error that means that the directory is not writable at all."""
  try:
    yield
  except OSError as error:
    if error.errno not in _NO_PLACE:
      raise
    raise UserError(
      f'{run.path} cannot be written ({error.strerror}): make it writable or give another workdir'
    ) from None
