"""Images of several sizes: read whole onto canvases, and their central squares for evaluation."""

import types

import jax
import numpy as np
import pytest
from PIL import Image

import clr_jax
from clr_jax import data
from clr_jax.core.errors import UserError
from clr_jax.data.pipeline import make_pipeline
from clr_jax.data.stream import shared_bytes
from clr_jax.data.whole import Whole, canvas_for
from clr_jax.evaluation.probing.features import extract
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.experiment.sources import open_source
from clr_jax.ops import sharding

WHOLE = Whole(canvas=32, shorter=16, size=14)
SIZES = [(20, 32), (12, 7), (32, 32), (30, 11), (64, 40), (9, 96), (25, 24), (17, 31)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """PNGs of SIZES, four in each of two classes; the fifth and the sixth do not fit a canvas."""
  root = tmp_path_factory.mktemp('whole')
  rng = np.random.default_rng(0)
  for i, (height, width) in enumerate(SIZES):
    place = root / 'ab'[i // 4]
    place.mkdir(exist_ok=True)
    pixels = rng.integers(1, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(place / f'{i}.png')
  return root


def source_of(folder, whole=WHOLE, **options):
  return data.load_source(f'folder:{folder}', whole=whole, **options)


def test_canvases_follow_from_the_views():
  assert [canvas_for(size) for size in (224, 96, 32, 384)] == [512, 224, 96, 896]


def test_whole_images_lie_on_canvases(folder):
  source = source_of(folder)
  loaded = source.load_whole(np.arange(8))
  assert loaded.image.shape == (8, 32, 32, 3) and source.image_shape == (14, 14, 3)
  assert source.nbytes == 8 * 32 * 32 * 3
  np.testing.assert_array_equal(loaded.label, [0] * 4 + [1] * 4)
  np.testing.assert_array_equal(loaded.extent[[4, 5]], [[32, 20], [3, 32]])  # reduced, not cut
  files = sorted(folder.glob('*/*.png'))
  for i, (file, (height, width)) in enumerate(zip(files, loaded.extent, strict=True)):
    picture = Image.open(file)
    if i in (4, 5):
      picture = picture.resize((width, height), Image.Resampling.BOX)
    np.testing.assert_array_equal(loaded.image[i, :height, :width], picture)
    beyond = loaded.image[i].copy()
    beyond[:height, :width] = 0
    assert not beyond.any()
  everything = source.whole_arrays()
  for one, other in zip(loaded, everything, strict=True):
    np.testing.assert_array_equal(one, other)
  part = data.SubsetSource(source, np.array([6, 1])).load_whole(np.array([1, 0]))
  np.testing.assert_array_equal(part.extent, loaded.extent[[1, 6]])


def test_shared_memory_holds_canvases(folder):
  source = source_of(folder)
  assert shared_bytes(source, rows=8, workers=0) == 0
  # Each of two readers has 4 parts of 8 images, and 50 may wait for their deletion.
  assert shared_bytes(source, rows=8, workers=2) == (2 * 4 + 50) * 8 * 32 * 32 * 3


def test_load_gives_the_central_squares(folder):
  source = source_of(folder)
  image, label = source.load(np.array([0, 3]))
  for found, file in zip(image, ('a/0.png', 'a/3.png'), strict=True):
    picture = Image.open(folder / file)
    short, long = sorted(picture.size)
    long = int(16 * long / short)
    size = (16, long) if picture.width < picture.height else (long, 16)
    left, top = (round((length - 14) / 2) for length in size)
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, picture.crop((left, top, left + 14, top + 14)))
  assert label.tolist() == [0, 0]


def test_images_of_one_size_stay_as_they_are(folder):
  assert source_of(folder, image_size=8).whole is None
  digits = data.load_source('digits', whole=WHOLE)
  assert digits.whole is None and digits.load_whole(np.arange(2)).extent is None
  assert data.load_source('digits', whole=WHOLE._replace(always=True)).image_shape == (14, 14, 1)
  with pytest.raises(UserError, match=r'differ in size .*: set data.image_size'):
    source_of(folder, whole=None)


def test_one_size_in_a_folder(tmp_path):
  for i in range(3):
    Image.fromarray(np.full((9, 12, 3), i, np.uint8)).save(tmp_path / f'{i}.png')
  source = source_of(tmp_path)
  assert source.whole is None and source.image_shape == (9, 12, 3)
  assert source_of(tmp_path, whole=WHOLE._replace(always=True)).stored_shape == (32, 32, 3)


def test_files_that_are_refused_are_named(tmp_path):
  for i, size in enumerate([(9, 12), (10, 12), (400, 2)]):
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f'{i}.png')
  with pytest.raises(UserError, match=r'2.png has 2x400 pixels, .*: crop it or remove it'):
    source_of(tmp_path)
  (tmp_path / '2.png').write_bytes(b'no image')
  with pytest.raises(UserError, match=r'cannot read the image .*2.png'):
    source_of(tmp_path).load_whole(np.arange(3))


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.weekly)])
def test_streamed_images_are_the_resident_ones(folder, workers):
  mesh = sharding.make_mesh()
  options = {'batch_size': 8, 'seed': 3, 'mesh': mesh}
  found = []
  for mode in ('streamed', 'resident'):
    pipeline = make_pipeline(
      source_of(folder), mode=mode, workers=workers * (mode == 'streamed'), **options
    )
    batches = []
    for block in pipeline.blocks([(0, 2), (2, 1)]):
      for i in range(len(block['index'])):
        row = {key: value[i] for key, value in block.items()}
        batches.append(jax.device_get(pipeline.batch(pipeline.resident, row)))
    found.append(batches)
  for one, other in zip(*found, strict=True):
    assert one.extent.shape == (8, 2)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_the_network_sees_the_central_squares(folder, interpolation):
  source = source_of(folder, whole=WHOLE._replace(interpolation=interpolation))
  represent = lambda params, state, images: {'h': images.reshape(len(images), -1)}  # noqa: E731
  for mesh in (None, sharding.make_mesh()):
    features = extract(represent, {}, {}, source, batch_size=5, mesh=mesh)
    want = source.load(np.arange(8))[0].reshape(8, -1) / 255
    np.testing.assert_allclose(features.h, want, rtol=0, atol=1e-6)


def test_settings_that_cannot_work_are_refused(folder):
  def refused(name=f'folder:{folder}', **values):
    given = {'data.name': name, **{k.replace('__', '.'): v for k, v in values.items()}}
    config = clr_jax.load_config('sogclr:cifar10', given)
    with pytest.raises(UserError) as error:
      open_source(config, name, 'train')
    return str(error.value)

  assert 'data.canvas=64 is for whole images' in refused(data__canvas=64, data__image_size=32)
  assert 'eval.resize=40 is for whole images' in refused(eval__resize=40, data__image_size=32)
  assert 'eval.resize=20 is less than the side 32' in refused(eval__resize=20)
  assert 'data.canvas=64 is for images that differ' in refused('digits', data__canvas=64)
  config = clr_jax.load_config('sogclr:cifar10', {'eval.crop': 24, 'eval.resize': 30})
  source = open_source(config, f'folder:{folder}', 'train')
  assert source.whole == Whole(canvas=96, shorter=30, size=24)
  config.eval.interpolation = 'bicubic'
  other = open_source(config, f'folder:{folder}', 'train')
  assert other.whole.interpolation == 'bicubic'
  # Results of one are not those of the other.
  assert Sets(source, None).checksum() != Sets(other, None).checksum()
  like = types.SimpleNamespace(whole=source.whole)
  assert open_source(config, 'digits', 'train', like=like).image_shape == (24, 24, 1)
