"""Random streams: the numbers that published tables rest on, and no two streams alike."""

import jax
import numpy as np

from clr_jax.ops.random import Stream, stream

NUMBERS = {
  'PROBE': 1,
  'QUEUE': 1000,
  'JIGSAW': 2000,
  'UN_MIX': 2000,
  'TIKHONOV': 3000,
  'DROP_PATH': 4000,
  'JIGSAW_DROP_PATH': 4001,
  'MOVED_PAIR': 0,
  'MOVED_NEGATIVES': 1,
  'MIXED_NEGATIVES': 2,
}


def bits(key):
  return np.asarray(jax.random.key_data(key))


def test_the_numbers_stay():
  assert {s.name: s.value[1] for s in Stream} == NUMBERS  # an alias would be missing
  key = jax.random.key(3)
  for name in Stream:
    expected = jax.random.fold_in(key, NUMBERS[name.name])
    np.testing.assert_array_equal(bits(stream(key, name)), bits(expected))


def test_streams_of_plugins_are_the_three_parts_of_a_split():
  key = jax.random.key(7919)
  streams = (Stream.MOVED_PAIR, Stream.MOVED_NEGATIVES, Stream.MIXED_NEGATIVES)
  for name, part in zip(streams, jax.random.split(key, 3), strict=True):
    np.testing.assert_array_equal(bits(stream(key, name)), bits(part))
