"""Preservation policy and deletion of a run's checkpoints."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence

from etils import epath

from clr_jax.core.storage import files_in, is_local
from clr_jax.rundir.workdir import Workdir

REMOVED = '.removed'
"""Folder to which a checkpoint is moved before deletion, so that no partial one remains."""


@dataclasses.dataclass
class LastAndBest:
  """Orbax preservation policy; the owner fills `scores` (step -> score, higher is better)."""

  last: int
  scores: dict[int, float]

  def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
    """Returns for each checkpoint whether to keep it."""
    del context
    steps = [c.step for c in checkpoints]
    scored = [s for s in steps if s in self.scores]
    kept = {*sorted(steps)[-self.last :]}
    if scored:
      kept.add(max(scored, key=lambda s: (self.scores[s], s)))
    return [s in kept for s in steps]


def delete_removed(checkpoints: epath.Path) -> None:
  """Deletes checkpoints in REMOVED, moved there by this process or by one that was killed."""
  shutil.rmtree(checkpoints / REMOVED, ignore_errors=True)


def set_aside(run: Workdir, step: int) -> epath.Path:
  """Moves a damaged checkpoint out of the folder of checkpoints; returns the new path.

  Object stores cannot move objects: there it is copied, and the caller deletes it.
  """
  places, damaged = run.path / 'damaged', run.checkpoints / str(step)
  number = sum(path.name.partition('-')[0] == str(step) for path in files_in(places))
  place = places / (f'{step}-{number}' if number else str(step))
  if is_local(damaged):
    places.mkdir(exist_ok=True)
    damaged.rename(place)
    return place
  import fsspec  # with gcsfs, in the extra gcs

  store = fsspec.filesystem('gs')
  prefix = os.fspath(damaged).partition('://')[2]
  for name in store.find(prefix):  # copied within the store, without a download
    store.cp_file(name, f'{os.fspath(place)}{name.removeprefix(prefix)}')
  return place
