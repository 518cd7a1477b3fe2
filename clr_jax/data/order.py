"""The order of examples, a pure function of (seed, step).

Shuffle, then batch with drop-remainder, then repeat. A batch therefore never repeats an index, and
a restart at any step, on any number of processes, continues with the same global batches.
"""

from __future__ import annotations

import functools
import threading

import numpy as np

from clr_jax.core.errors import UserError

_LOCK = threading.Lock()  # reader threads reach a new epoch at once; only one shuffles


def shuffled(seed: int, stream: int, n: int) -> np.ndarray:
  """A permutation of 0..n-1, [n] int32, for a pair of non-negative integers.

  Sorts raw Philox words instead of calling `Generator.permutation`: numpy promises the stream of a
  bit generator for all versions, but not the algorithm of a distribution (NEP 19).
  """
  if seed < 0:
    raise UserError(f'the data seed must not be negative, got {seed}')
  words = np.random.Philox(np.random.SeedSequence([seed, stream])).random_raw(n)
  return np.argsort(words, kind='stable').astype(np.int32)


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  order = shuffled(seed, epoch, num_examples)
  order.setflags(write=False)
  return order


def steps_per_epoch(*, num_examples: int, batch_size: int) -> int:
  """Full batches in one epoch, N // B; the remainder of each shuffle is dropped.

  Raises:
    UserError: the batch is empty or larger than the data set.
  """
  if batch_size < 1:
    raise UserError(f'the batch size must be at least 1, got {batch_size}')
  if batch_size > num_examples:
    raise UserError(
      f'the batch size {batch_size} is larger than the data set of {num_examples} examples: '
      'choose a smaller batch or more data'
    )
  return num_examples // batch_size


def batch_indices(seed: int, step: int, *, num_examples: int, batch_size: int) -> np.ndarray:
  """Indices of the global batch of one step, [B] int32 in 0..N-1 without repetition.

  Raises:
    UserError: the batch is larger than the data set, or the seed is negative.
  """
  per_epoch = steps_per_epoch(num_examples=num_examples, batch_size=batch_size)
  epoch, position = divmod(int(step), per_epoch)
  with _LOCK:
    order = _epoch_order(int(seed), epoch, num_examples)
  return order[position * batch_size : (position + 1) * batch_size]
