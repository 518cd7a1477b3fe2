"""The directory of a run: its parts, as paths.

  config.json, config-<n>.json   the config, and what was changed later
  data.json  parameters.txt      what the training images were; every array of the state
  checkpoints/                   see clr_jax.rundir.checkpoint
  metrics/  tensorboard/         see clr_jax.rundir.metrics
  results/                       one file per measurement
  features/  figures/  profile/  kept features, pictures, profiler traces: as needed

Object stores neither append nor rename, so a file is written whole and once; readers merge. Only
process 0 writes.
"""

from __future__ import annotations

import os

from etils import epath

from clr_jax.core.storage import is_local


class Workdir:
  """Paths of a run's directory, local or in an object store; nothing is created."""

  def __init__(self, path: epath.PathLike):
    path = epath.Path(path).expanduser()
    self.path = epath.Path(os.path.abspath(path)) if is_local(path) else path
    self.checkpoints = self.path / 'checkpoints'
    self.metrics = self.path / 'metrics'
    self.results = self.path / 'results'
    self.tensorboard = self.path / 'tensorboard'

  def __repr__(self) -> str:
    return f'Workdir({os.fspath(self.path)!r})'
