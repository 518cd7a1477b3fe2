"""The labels of much data, read once: they lie among the images, all of which must be read."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.locks import one_at_a_time
from clr_jax.core.storage import atomic_write, cache_folder


def stored_labels(
  folder: epath.Path, files: Sequence[str], rows: np.ndarray, read: Callable[[], np.ndarray]
) -> np.ndarray:
  """Labels [n] int32 of the rows: those stored by an earlier call, else from `read`.

  They are stored beside the data, else (read-only data) below $XDG_CACHE_HOME or ~/.cache, under a
  name that depends on the names and sizes of the files: other files have other labels.

  Args:
    folder: folder of the prepared data set, with its dataset_info.json.
    files: names of the split's files in `folder`.
    rows: [n] consecutive rows of the split.
  """
  found = {path.name: path for path in folder.iterdir()}
  sizes = [(name, found[name].stat().length) for name in files if name in found]
  identity = repr(((folder / 'dataset_info.json').read_text(), sizes, int(rows[0]), len(rows)))
  name = f'clr_jax-labels-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npy'
  places = folder / name, epath.Path(cache_folder()) / name
  labels = _load(places, len(rows))
  if labels is not None:
    return labels
  with one_at_a_time(*(place.with_suffix('.lock') for place in places)):
    labels = _load(places, len(rows))  # another process was faster
    if labels is None:
      message = f'Reading the labels of {len(rows):,} records in {folder}, once ...'
      print(message, file=sys.stderr, flush=True)
      labels = read()
      _store(places, labels)
  return labels


def _load(places: Sequence[epath.Path], num_examples: int) -> np.ndarray | None:
  for place in places:
    try:
      labels = np.load(io.BytesIO(place.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError):
      continue  # not there, or damaged
    if labels.shape == (num_examples,):
      return labels
  return None


def _store(places: Sequence[epath.Path], labels: np.ndarray) -> None:
  content = io.BytesIO()
  np.save(content, labels)
  for place in places:
    try:
      return atomic_write(place, content.getvalue())
    except (OSError, UserError):  # UserError: a folder is in the way
      continue
  logging.warning('Nothing can be written to %s: the next start reads the labels again.', places)
