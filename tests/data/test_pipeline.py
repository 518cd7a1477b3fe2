import threading

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from clr_jax.core.errors import UserError
from clr_jax.data import ArraySource, base, batch_indices, load_source, stream
from clr_jax.data.pipeline import make_pipeline, process_rows

CHUNKS = [(0, 2), (2, 3), (5, 1)]  # over the end of the first epoch, of 4 steps


@pytest.fixture(scope='module')
def mesh():
  return Mesh(np.array(jax.devices()), ('data',))


@pytest.fixture(scope='module')
def source():
  """70 images whose first pixel is their index."""
  images = np.random.default_rng(0).integers(0, 256, (70, 3, 2, 3)).astype(np.uint8)
  images[:, 0, 0, 0] = np.arange(70)
  return ArraySource(images, np.arange(70) % 7)


def pipe(source, mesh, **kwargs):
  return make_pipeline(source, **{'batch_size': 16, 'seed': 3, 'mesh': mesh, **kwargs})


def batches(pipeline, chunks):
  """Every step's batch, made by the jitted function that training uses."""
  make = jax.jit(pipeline.batch)
  for block in pipeline.blocks(chunks):
    for i in range(block['index'].shape[0]):
      yield make(pipeline.resident, {key: value[i] for key, value in block.items()})


def check(batch, source, step, batch_size=16, seed=3):
  index = batch_indices(seed, step, num_examples=source.num_examples, batch_size=batch_size)
  np.testing.assert_array_equal(batch.index, index)
  np.testing.assert_array_equal(batch.image, source.arrays()[0][index])
  np.testing.assert_array_equal(batch.label, source.arrays()[1][index])


@pytest.mark.parametrize('mode', ['resident', 'streamed'])
def test_blocks_hold_the_batches_of_their_steps(mode, mesh, source):
  pipeline = pipe(source, mesh, mode=mode)
  assert (pipeline.mode, pipeline.steps_per_epoch, pipeline.num_examples) == (mode, 4, 70)
  assert (pipeline.resident is None) == (mode == 'streamed')
  blocks = list(pipeline.blocks(CHUNKS))
  assert [b['index'].shape for b in blocks] == [(2, 16), (3, 16), (1, 16)]
  for block in blocks:
    assert set(block) == ({'index'} if mode == 'resident' else {'index', 'image', 'label'})
    for value in block.values():
      assert value.sharding.is_equivalent_to(NamedSharding(mesh, P(None, 'data')), value.ndim)
  for step, batch in enumerate(batches(pipeline, CHUNKS)):
    check(batch, source, step)
    assert batch.image.dtype == np.uint8
    assert batch.label.dtype == batch.index.dtype == np.int32
  assert pipeline.wait_seconds > 0


def test_resident_images_are_everywhere_and_the_gather_is_local(mesh, source):
  pipeline = pipe(source, mesh, mode='resident')
  for value in jax.tree.leaves(pipeline.resident):
    assert value.sharding.is_fully_replicated
  row = {'index': next(iter(pipeline.blocks([(0, 1)])))['index'][0]}
  compiled = jax.jit(pipeline.batch).lower(pipeline.resident, row).compile()
  batch = compiled(pipeline.resident, row)
  assert batch.image.sharding.is_equivalent_to(NamedSharding(mesh, P('data')), 4)
  for collective in ('all-reduce', 'all-gather', 'all-to-all', 'collective-permute'):
    assert collective not in compiled.as_text()


@pytest.mark.parametrize('mode', ['resident', 'streamed'])
def test_a_run_resumed_in_the_middle_gets_the_same_blocks(mode, mesh, source):
  whole = list(pipe(source, mesh, mode=mode).blocks([(s, 1) for s in range(9)]))
  resumed = list(pipe(source, mesh, mode=mode).blocks([(s, 1) for s in range(5, 9)]))
  for a, b in zip(whole[5:], resumed, strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_auto_chooses_by_size(mesh, source):
  assert pipe(source, mesh).mode == 'resident'
  assert pipe(source, mesh, resident_limit=source.nbytes - 1).mode == 'streamed'


@pytest.mark.parametrize('mode', ['resident', 'streamed'])
def test_unlabeled_and_hidden_labels(mode, mesh, source):
  unlabeled = ArraySource(source.arrays()[0])
  for pipeline in (
    pipe(unlabeled, mesh, mode=mode),
    pipe(source, mesh, mode=mode, drop_labels=True),
  ):
    (batch,) = batches(pipeline, [(1, 1)])
    assert batch.label is None
    assert batch.image.shape == (16, 3, 2, 3)


@pytest.mark.parametrize('processes', [1, 2, 4, 8])
def test_processes_share_each_batch_without_gap_or_overlap(mesh, processes):
  sharding = NamedSharding(mesh, P('data'))
  of = lambda device: device.id * processes // 8  # noqa: E731
  rows = [process_rows(sharding, 24, p, of) for p in range(processes)]
  assert [len(r) for r in rows] == [24 // processes] * processes
  assert sorted(np.concatenate(rows).tolist()) == list(range(24))


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_the_stream_is_the_same_for_any_number_of_processes(mesh, source, processes):
  def of(device):  # neighboring shards on different processes: a process's rows have gaps
    return device.id % processes

  whole = np.empty((3, 16, *source.image_shape), np.uint8)
  for process in range(processes):
    rows = process_rows(NamedSharding(mesh, P('data')), 16, process, of)
    blocks = stream.read_blocks(
      source, [(2, 3)], seed=3, batch_size=16, rows=rows, labels=True, workers=0
    )
    whole[:, rows] = next(blocks)['image']
    blocks.close()
  for step in range(3):
    index = batch_indices(3, 2 + step, num_examples=70, batch_size=16)
    np.testing.assert_array_equal(whole[step], source.arrays()[0][index])


def test_large_images_are_read_in_small_parts(source, monkeypatch):
  monkeypatch.setattr(base, '_PART_BYTES', 5 * 18)  # five images
  steps = np.array([4, 9])
  parts = stream.StepParts(
    source, seed=0, batch_size=16, steps=steps, rows=np.arange(4, 16), labels=True
  )
  assert (parts.part_rows, parts.parts_per_step, len(parts)) == (4, 3, 6)
  index = np.concatenate([parts[p]['index'] for p in range(3, 6)])
  expected = batch_indices(0, 9, num_examples=70, batch_size=16)[4:]
  np.testing.assert_array_equal(index, expected)


@pytest.mark.slow
def test_worker_processes_keep_the_order(mesh, tmp_path):
  for i in range(16):
    Image.new('RGB', (4, 4), (i, 0, 0)).save(tmp_path / f'{i:02d}.png')
  folder = load_source(f'folder:{tmp_path}')
  pipeline = pipe(folder, mesh, batch_size=8, mode='streamed', workers=2)
  (block,) = pipeline.blocks([(1, 3)])
  np.testing.assert_array_equal(np.asarray(block['image'])[:, :, 0, 0, 0], block['index'])
  for i, step in enumerate((1, 2, 3)):
    np.testing.assert_array_equal(
      block['index'][i], batch_indices(3, step, num_examples=16, batch_size=8)
    )


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 1])
def test_a_damaged_file_stops_the_consumer_with_its_name(mesh, tmp_path, workers):
  for i in range(8):
    Image.new('RGB', (4, 4)).save(tmp_path / f'{i}.png')
  pipeline = pipe(
    load_source(f'folder:{tmp_path}'), mesh, batch_size=8, mode='streamed', workers=workers
  )
  (tmp_path / '5.png').write_text('damaged')
  with pytest.raises(UserError, match=r'5\.png'):
    list(pipeline.blocks([(0, 1)]))


def data_threads():
  return [t for t in threading.enumerate() if t.name == 'clr_jax-data']


@pytest.mark.parametrize('mode', ['resident', 'streamed'])
def test_leaving_the_loop_ends_the_background_thread(mode, mesh, source):
  blocks = pipe(source, mesh, mode=mode).blocks([(s, 1) for s in range(500)])
  next(blocks)
  assert data_threads()
  blocks.close()
  assert not data_threads()


def test_no_chunks_no_blocks(mesh, source):
  for mode in ('resident', 'streamed'):
    assert list(pipe(source, mesh, mode=mode).blocks(iter([]))) == []
    assert list(pipe(source, mesh, mode=mode).blocks([(3, 0)])) == []


@pytest.mark.parametrize(
  ('kwargs', 'words'),
  [
    ({'batch_size': 12}, '12 is not divisible by 8 devices: choose a multiple of 8'),
    ({'batch_size': 72}, 'larger than the data set of 70'),
    ({'batch_size': 0}, 'at least 1'),
    ({'mode': 'stream'}, "give one of 'auto', 'resident', 'streamed'"),
    ({'seed': -1}, 'seed=-1 .* at least 0'),
    ({'workers': -1}, 'workers=-1 .* at least 0'),
    ({'prefetch': 0}, 'prefetch=0 .* at least 1'),
  ],
)
def test_bad_arguments(kwargs, words, mesh, source):
  with pytest.raises(UserError, match=words):
    pipe(source, mesh, **kwargs)


def test_the_mesh_needs_a_data_axis(source):
  with pytest.raises(UserError, match="axis 'data'"):
    pipe(source, Mesh(np.array(jax.devices()), ('model',)))


def test_without_grain_only_resident_data(mesh, source, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'grain', None)
  assert len(list(pipe(source, mesh).blocks([(0, 1)]))) == 1
  with pytest.raises(UserError, match=r'data\.mode=resident'):
    list(pipe(source, mesh, mode='streamed').blocks([(0, 1)]))
