"""Named random streams, derived from the keys of a run."""

from __future__ import annotations

import enum

import jax

from clr_jax.core.types import Array


class Stream(enum.Enum):
  """A random stream: (name of the key that it is folded into, its number).

  The numbers determine the drawn values: changing one changes all published results. `Chain`
  folds 0, 1, ... into the key of `Method.init` for its modules; Flax folds the path of a parameter
  into these, so that PROBE cannot collide with them.
  """

  PROBE = 'init', 1
  QUEUE = 'init', 1000
  JIGSAW = 'init', 2000
  UN_MIX = 'embed', 2000
  TIKHONOV = 'embed', 3000
  DROP_PATH = 'embed', 4000
  JIGSAW_DROP_PATH = 'embed', 4001
  # Streams of plug-ins, folded into the key of `Pipeline.scores`.
  MOVED_PAIR = 'scores', 0
  MOVED_NEGATIVES = 'scores', 1
  MIXED_NEGATIVES = 'scores', 2


def stream(key: Array, name: Stream) -> Array:
  """The key of a stream, derived from `key`."""
  return jax.random.fold_in(key, name.value[1])
