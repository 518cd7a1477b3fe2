import functools
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import OtherProcessFailed, UserError
from clr_jax.core.types import Method, Out
from clr_jax.evaluation.probing.features import estimate_batch_stats, extract, pixels
from clr_jax.ops import sharding


class Source:
  """Random images; counts what is read."""

  image_shape = (4, 4, 3)
  num_classes = 5

  def __init__(self, num_examples=53, labeled=True):
    rng = np.random.default_rng(0)
    self.num_examples = num_examples
    self.image = rng.integers(0, 256, (num_examples, *self.image_shape), dtype=np.uint8)
    self.label = rng.integers(0, 5, num_examples, dtype=np.int32) if labeled else None
    self.rows_read = 0

  def load(self, indices):
    self.rows_read += len(indices)
    return self.image[indices], None if self.label is None else self.label[indices]


PARAMS = {'w': np.random.default_rng(1).normal(size=(48, 6)).astype(np.float32)}


def represent(params, state, images):
  h = jnp.tanh(images.reshape(len(images), -1) @ params['w'] + state['shift'][None, :])
  return {'h': h, 'z': h[:, :2]}


STATE = {'shift': np.full(6, 0.5, np.float32)}


def expected(source):
  return np.tanh(source.image.reshape(-1, 48) / 255.0 @ PARAMS['w'] + 0.5)


@pytest.mark.parametrize('batch_size', [1, 8, 53, 500])
def test_extract_is_in_source_order_for_every_batch_size(batch_size):
  source = Source()
  got = extract(represent, PARAMS, STATE, source, batch_size=batch_size)
  assert got.h.dtype == np.float32 and isinstance(got.h, np.ndarray)
  np.testing.assert_allclose(got.h, expected(source), atol=1e-6)
  np.testing.assert_array_equal(got.label, source.label)
  assert got.label is not None and got.label.dtype == np.int32


@pytest.mark.parametrize('batch_size', [3, 16, 20])
def test_extract_on_eight_devices_equals_one(batch_size):
  source = Source()
  got = extract(represent, PARAMS, STATE, source, batch_size=batch_size, mesh=sharding.make_mesh())
  np.testing.assert_allclose(got.h, expected(source), atol=1e-6)
  np.testing.assert_array_equal(got.label, source.label)


def test_extract_splits_the_batch_over_the_devices():
  seen = []

  def spy(params, state, images):
    jax.debug.inspect_array_sharding(images, callback=seen.append)
    return represent(params, state, images)

  extract(spy, PARAMS, STATE, Source(), batch_size=16, mesh=sharding.make_mesh())
  assert seen[0].shard_shape((16, 4, 4, 3))[0] == 2


def test_extract_compiles_once():
  traces = []

  def counting(params, state, images):
    traces.append(images.shape)
    return represent(params, state, images)

  for _ in range(2):
    extract(counting, PARAMS, STATE, Source(), batch_size=16)
  assert traces == [(16, 4, 4, 3)]


def test_extract_takes_another_key_a_part_and_unlabeled_data():
  source = Source(labeled=False)
  rows = np.array([7, 3, 50])
  got = extract(represent, PARAMS, STATE, source, key='z', indices=rows)
  np.testing.assert_allclose(got.h, expected(source)[rows, :2], atol=1e-6)
  assert got.label is None
  with pytest.raises(UserError, match="unknown representation 'q'"):
    extract(represent, PARAMS, STATE, source, key='q')


def darker(key, images):
  """Another factor for every image."""
  return images * jax.random.uniform(key, (len(images), 1, 1, 1))


def test_what_one_of_several_processes_cannot_read_all_hear_of_at_the_end(monkeypatch):
  """The others wait in the computation of its batch."""
  module, heard, calls = 'clr_jax.evaluation.probing.features', [], []

  class Damaged(Source):
    def load(self, indices):
      calls.append(len(indices))
      if 20 in indices:
        raise UserError('cannot read the image x')
      return super().load(indices)

  def together(ok):
    heard.append((ok, len(calls)))
    return False

  run = functools.partial(extract, represent, PARAMS, STATE, batch_size=16)
  with pytest.raises(UserError, match='cannot read the image x'):
    run(Damaged(), mesh=sharding.make_mesh())
  del calls[:]
  monkeypatch.setattr(f'{module}.jax.process_count', lambda: 2)
  monkeypatch.setattr(f'{module}.in_all_processes', together)
  monkeypatch.setattr(f'{module}._to_host', np.asarray)
  with pytest.raises(UserError, match='cannot read the image x'):
    run(Damaged(), mesh=sharding.make_mesh())
  assert heard == [(False, 2)]  # after it nothing is read
  with pytest.raises(OtherProcessFailed):
    run(Source(), mesh=sharding.make_mesh())
  assert heard[1][0]


def test_augmentation_belongs_to_the_image_and_the_seed():
  """Not to the batch it is in, nor to the device."""
  source, take = Source(), functools.partial(extract, represent, PARAMS, STATE)
  whole = take(source, augment=darker, seed=3)
  for options in ({'batch_size': 8}, {'batch_size': 16, 'mesh': sharding.make_mesh()}):
    again = take(source, augment=darker, seed=3, **options)
    np.testing.assert_allclose(again.h, whole.h, atol=1e-5)
  key = jax.random.fold_in(jax.random.key(3), 7)
  by_hand = darker(key, source.image[7:8] / np.float32(255))
  np.testing.assert_allclose(whole.h[7:8], represent(PARAMS, STATE, by_hand)['h'], atol=1e-5)
  some = take(source, augment=darker, seed=3, indices=np.array([7, 2]))
  np.testing.assert_allclose(some.h, whole.h[[7, 2]], atol=1e-5)
  assert np.abs(take(source, augment=darker, seed=4).h - whole.h).mean() > 0.01
  np.testing.assert_allclose(take(source).h, expected(source), atol=1e-6)


def test_pixels():
  source = Source()
  got = pixels(source, batch_size=10)
  np.testing.assert_array_equal(got.h, source.image.reshape(53, 48).astype(np.float32) / 255)
  np.testing.assert_array_equal(got.label, source.label)
  assert source.rows_read == 53
  assert pixels(Source(labeled=False)).label is None


def batch_norm_method(seen=None):
  """Its running mean and variance follow those of the views."""

  def embed(params, state, batch, rng, step):
    if seen is not None:
      seen.append((batch.image, batch.views['global'].shape))
    x = batch.views['global'].reshape(-1, 48)
    old = state['batch_stats']
    new = {'mean': x.mean(0), 'var': x.var(0)}
    followed = {name: 0.9 * old[name] + 0.1 * new[name] for name in new}
    return Out(online=x), {'batch_stats': {**old, **followed}}

  unused = lambda *args: None  # noqa: E731
  return Method('statistics', unused, embed, unused, unused, unused, 'own')  # type: ignore


def test_batch_stats_become_those_of_the_images():
  source, seen = Source(), []
  before = {'mean': jnp.zeros(48), 'var': jnp.ones(48), 'frozen': jnp.full(2, 7.0)}
  state = {'batch_stats': before, 'other': jnp.arange(3)}
  run = lambda **kw: estimate_batch_stats(  # noqa: E731
    batch_norm_method(seen), {}, state, source, num_views=2, seed=0, **kw
  )
  after = run(batch_size=100)
  images = source.image.reshape(53, 48) / 255
  np.testing.assert_allclose(after['batch_stats']['mean'], images.mean(0), atol=2e-6)
  np.testing.assert_allclose(after['batch_stats']['var'], images.var(0), atol=2e-6)
  np.testing.assert_array_equal(after['batch_stats']['frozen'], [7, 7])
  assert seen == [(None, (53, 2, 4, 4, 3))]  # traced once, without raw images
  assert after['other'] is state['other'] and state['batch_stats'] is before
  first, again = (run(batch_size=8, max_batches=5)['batch_stats']['mean'] for _ in range(2))
  np.testing.assert_array_equal(first, again)


def test_an_untrained_target_gets_the_statistics_too():
  before = {'mean': jnp.zeros(48), 'var': jnp.ones(48)}
  target = {'params': {}, 'batch_stats': {'mean': jnp.zeros(48)}}  # it has no predictor
  state = {'batch_stats': before, 'target': target}
  after = estimate_batch_stats(batch_norm_method(), {}, state, Source(), num_views=2, seed=0)
  assert set(after['target']['batch_stats']) == {'mean'}
  np.testing.assert_array_equal(
    after['target']['batch_stats']['mean'], after['batch_stats']['mean']
  )


def test_without_batch_norm_the_state_is_unchanged():
  state = {'step': 1}
  assert (
    estimate_batch_stats(batch_norm_method(), {}, state, Source(), num_views=1, seed=0) is state
  )


PROCESS = """
import sys
import jax
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)
jax.distributed.initialize(f'localhost:{sys.argv[1]}', 2, int(sys.argv[2]))
import numpy as np
from clr_jax.evaluation.probing.features import extract
from clr_jax.ops import sharding
from tests.evaluation.probing.test_features import PARAMS, STATE, Source, expected, represent

source, mesh = Source(), sharding.make_mesh()
params, state = jax.device_put((PARAMS, STATE), sharding.replicated(mesh))
for indices in (None, np.array([5, 1])):
  rows = np.arange(53) if indices is None else indices
  got = extract(represent, params, state, source, batch_size=16, mesh=mesh, indices=indices)
  np.testing.assert_allclose(got.h, expected(source)[rows], atol=1e-6)
  np.testing.assert_array_equal(got.label, source.label[rows])
assert source.rows_read == 4 * 8 + 2, source.rows_read  # half of each batch
alone = extract(represent, params, state, source, batch_size=16)
np.testing.assert_allclose(alone.h, expected(source), atol=1e-6)
"""


@pytest.mark.slow
def test_two_processes_get_all_features_and_read_half_each():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = str(s.getsockname()[1])
  root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
  env = {**os.environ, 'PYTHONPATH': root}
  command = [sys.executable, '-c', PROCESS, port]
  workers = [
    subprocess.Popen([*command, str(i)], env=env, stderr=subprocess.PIPE, text=True)
    for i in range(2)
  ]
  try:
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  assert [worker.returncode for worker in workers] == [0, 0], '\n'.join(errors)
