"""The directory of a run: its parts, as paths.

  config.json, config-<n>.json   the config, and what was changed later
  data.json  parameters.txt      what the training images were; every array of the state
  checkpoints/                   see clr_jax.rundir.checkpoint
  metrics/                       see clr_jax.rundir.metrics
  tensorboard/  metrics.csv  wandb/   see clr_jax.rundir.loggers
  results/                       one file per measurement
  damaged/                       checkpoints that cannot be restored any more
  features/  figures/  profile/  kept features, pictures, profiler traces: as needed
  .lock                          who writes here, while it does

Object stores neither append nor rename, so a file is written whole and once; readers merge. Only
process 0 writes.
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
"""All folders that a run may have."""


class Workdir:
  """Paths of a run's directory, local or in an object store; nothing is created.

  Raises:
    UserError: a place that is not supported, see `check_path`.
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
  """Above the numbers in the names of all files of a folder, which are written with 20 digits.

  Files are read in the order of their names. A clock may be set back, so none is asked. (Earlier
  versions wrote nanoseconds since 1970.)
  """
  numbers = (_NUMBER.search(path.name) for path in files_in(folder))
  return max((int(number[0]) for number in numbers if number), default=0) + 1


@contextlib.contextmanager
def refuse_no_place(run: Workdir) -> Iterator[None]:
  """Makes a UserError of an error that says that the directory cannot be written at all."""
  try:
    yield
  except OSError as error:
    if error.errno not in _NO_PLACE:
      raise
    raise UserError(
      f'{run.path} cannot be written ({error.strerror}): make it writable or give another workdir'
    ) from None
