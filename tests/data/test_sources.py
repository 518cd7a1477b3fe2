import errno

import numpy as np
import pytest
from PIL import Image

from clr_jax.core.errors import UserError
from clr_jax.core.registry import ModuleRegistry
from clr_jax.data import (
  ArraySource,
  SubsetSource,
  available,
  base,
  images,
  load_source,
  sources,
)
from clr_jax.data.slices import resolve_split
from clr_jax.data.subset import ClassSubset
from clr_jax.data.whole import Whole


@pytest.fixture
def npz(tmp_path):
  """train: 10 images 6x4 RGB with labels 0..4; test: 5 gray images without labels."""
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (10, 6, 4, 3)).astype(np.uint8)
  np.savez(tmp_path / 'toy_train.npz', image=image, label=np.arange(10) % 5)
  np.savez(tmp_path / 'toy_test.npz', x=image[:5, :, :, 0])
  return tmp_path


class TestDigits:
  def test_the_splits_are_fixed_and_stratified(self):
    train, test = load_source('digits'), load_source('digits', split='test')
    assert (train.num_examples, test.num_examples) == (1437, 360)
    assert train.image_shape == (8, 8, 1)
    assert train.num_classes == 10
    assert train.class_names == tuple('0123456789')
    assert train.checksum() == ('3e37427e495de1f62e0d55a908a6cd34aaa29d9fb87e27e72b881d5019065913')
    assert test.checksum() == 'a3bab6c79085b9bea3d604c82535f41058c638bc71c7de72c88c0f84207d0de1'
    whole = np.bincount(np.concatenate([train.arrays()[1], test.arrays()[1]]))
    assert np.abs(np.bincount(test.arrays()[1]) - whole / 1797 * 360).max() <= 1

  def test_levels_are_the_original_sixteenths(self):
    from sklearn.datasets import load_digits

    images = np.concatenate([load_source('digits', split=s).arrays()[0] for s in ('train', 'test')])
    original = load_digits().images
    expected = np.sort(np.round(original * 255 / 16).reshape(1797, 64), axis=None)
    np.testing.assert_array_equal(np.sort(images, axis=None), expected)
    assert images.max() == 255

  def test_image_size(self):
    small, large = load_source('digits', limit=3), load_source('digits', image_size=16, limit=3)
    assert large.image_shape == (16, 16, 1)
    means = [s.arrays()[0].mean(axis=(1, 2, 3)) for s in (small, large)]
    np.testing.assert_allclose(*means, rtol=0.1)

  def test_unknown_split(self):
    with pytest.raises(UserError, match="no split 'validation': choose one of train, test"):
      load_source('digits', split='validation')


class TestNpz:
  def test_labels_and_split_placeholder(self, npz):
    train = load_source(f'npz:{npz}/toy_{{split}}.npz')
    assert (train.num_examples, train.image_shape, train.num_classes) == (10, (6, 4, 3), 5)
    images, labels = train.load(np.array([7, 2]))
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert labels.tolist() == [2, 2]
    np.testing.assert_array_equal(images, train.arrays()[0][[7, 2]])
    test = load_source(f'{npz}/toy_{{split}}.npz', split='test')
    assert (test.num_examples, test.image_shape, test.num_classes) == (5, (6, 4, 1), None)
    assert test.arrays()[1] is None

  def test_slice_and_limit_keep_the_classes_of_the_whole(self, npz):
    part = load_source(f'npz:{npz}/toy_train.npz', split='train[20%:-10%]', limit=3)
    assert part.arrays()[1].tolist() == [2, 3, 4]
    assert part.num_classes == 5
    assert load_source(f'npz:{npz}/toy_train.npz', split='train[:2]').num_classes == 5

  def test_image_size_keeps_the_center(self, npz):
    source = load_source(f'npz:{npz}/toy_train.npz', image_size=4)
    assert source.image_shape == (4, 4, 3)
    whole = load_source(f'npz:{npz}/toy_train.npz').arrays()[0]
    np.testing.assert_array_equal(source.arrays()[0], whole[:, 1:5])  # width 4 fits already

  @pytest.mark.parametrize(
    ('arrays', 'words'),
    [
      ({'pixels': np.zeros((2, 4, 4), np.uint8)}, "no array 'image'.*only: pixels"),
      ({'image': np.zeros((2, 4, 4, 3), np.float32)}, 'must be uint8.*float32'),
      ({'image': np.zeros((2, 4, 4, 2), np.uint8)}, 'with 1 or 3 channels'),
      ({'image': np.zeros((4, 4), np.uint8)}, r'got \[4, 4\]'),
      ({'image': np.uint8(3)}, r'got \[\]'),
      ({'image': np.zeros((2, 4, 4), np.uint8), 'label': np.zeros(3, int)}, '2 integers'),
      ({'image': np.zeros((2, 4, 4), np.uint8), 'label': np.zeros(2)}, 'float64'),
      ({'image': np.zeros((2, 4, 4), np.uint8), 'label': np.array([0, -1])}, 'at least 0'),
    ],
  )
  def test_unsuitable_arrays(self, tmp_path, arrays, words):
    np.savez(tmp_path / 'bad.npz', **arrays)
    with pytest.raises(UserError, match=words):
      load_source(f'npz:{tmp_path}/bad.npz')

  def test_unreadable_files(self, npz):
    (npz / 'text.npz').write_text('no archive')
    (npz / 'cut.npz').write_bytes((npz / 'toy_train.npz').read_bytes()[:300])
    for name in ('text', 'cut'):
      with pytest.raises(UserError, match=f'{name}.npz'):
        load_source(f'npz:{npz}/{name}.npz')
    with pytest.raises(UserError, match='no file'):
      load_source(f'npz:{npz}/absent.npz')
    with pytest.raises(UserError, match=r"no split 'test'.*\{split\}"):
      load_source(f'npz:{npz}/toy_train.npz', split='test')


class TestSlices:
  @pytest.mark.parametrize(
    ('split', 'expected'),
    [
      ('train', (0, 1797)),
      ('train[:100]', (0, 100)),
      ('train[100:]', (100, 1797)),
      ('train[-97:]', (1700, 1797)),
      ('train[:]', (0, 1797)),
      ('train[25%:75%]', (449, 1348)),
      ('train[:-10%]', (0, 1617)),
      (' train[1_000:] ', (1000, 1797)),
    ],
  )
  def test_rows(self, split, expected):
    assert resolve_split(split, {'train': 1797}, source='x') == ('train', *expected)

  @pytest.mark.parametrize('split', ['train[:33%]', 'train[-7%:]', 'train[5:-1]', 'train[1%:9%]'])
  @pytest.mark.parametrize('n', [7, 50, 1797, 60000])
  def test_the_rows_are_those_of_tfds(self, split, n):
    tfds = pytest.importorskip('tensorflow_datasets')
    info = tfds.core.SplitInfo(
      name='train',
      shard_lengths=[n],
      num_bytes=0,
      filename_template=tfds.core.ShardedFileTemplate(
        data_dir='/nowhere', dataset_name='d', split='train', filetype_suffix='x'
      ),
    )
    files = tfds.core.splits.SplitDict([info])[split].file_instructions
    if not files:
      with pytest.raises(UserError, match='none of'):
        resolve_split(split, {'train': n}, source='x')
      return
    _, lo, hi = resolve_split(split, {'train': n}, source='x')
    assert (lo, hi - lo) == (files[0].skip, n - lo if files[0].take < 0 else files[0].take)

  @pytest.mark.parametrize(
    ('split', 'words'),
    [
      ('train[5', 'cannot read the split'),
      ('train[a:b]', 'cannot read the split'),
      ('train+test', "no split 'train\\+test': choose one of train"),
      ('train[:2000]', 'beyond the 1797'),
      ('train[5:50%]', 'mixes'),
      ('train[9:9]', 'none of the 1797'),
      ('', 'cannot read the split'),
    ],
  )
  def test_bad_slices(self, split, words):
    with pytest.raises(UserError, match=words):
      resolve_split(split, {'train': 1797}, source='x')


def test_array_source_leaves_the_callers_arrays_writable():
  images, labels = np.zeros((4, 5, 5), np.uint8), np.array([0, 1, 2, 0])
  source = ArraySource(images, labels)
  assert (source.image_shape, source.num_classes, source.nbytes) == ((5, 5, 1), 3, 100)
  images[0] = 1
  with pytest.raises(ValueError, match='read-only'):
    source.arrays()[0][0] = 1


def test_the_checksum_sees_pixels_labels_and_names():
  images, labels = np.zeros((300, 2, 2), np.uint8), np.zeros(300, int)
  other_images, other_labels = images.copy(), labels.copy()
  other_images[299], other_labels[299] = 1, 1
  sums = {
    ArraySource(images, labels, num_classes=2).checksum(),
    ArraySource(other_images, labels, num_classes=2).checksum(),
    ArraySource(images, other_labels, num_classes=2).checksum(),
    ArraySource(images, labels, class_names=('a', 'b')).checksum(),
    ArraySource(images).checksum(),
  }
  assert len(sums) == 5
  assert ArraySource(images, labels, num_classes=2, name='n').checksum() in sums


def test_sizes_below_one_are_refused():
  with pytest.raises(UserError, match='limit'):
    load_source('digits', limit=0)
  with pytest.raises(UserError, match='image_size'):
    load_source('digits', image_size=0)


def test_available_names_what_needs_no_download(tmp_path):
  names = [name for name, _ in available(tmp_path)]
  assert names == ['blank:NAME', 'digits', 'folder:PATH', 'npz:PATH']


def test_black_images_have_the_form_of_a_known_data_set():
  source = load_source('blank:cifar100', split='train[:150]')
  image, label = source.load(np.arange(149, 150))
  assert source.num_examples == 150 and source.num_classes == 100 and label.tolist() == [49]
  assert image.shape == (1, 32, 32, 3) and not image.any()
  assert load_source('blank:stl10', split='unlabelled', image_size=64).labels() is None
  whole = load_source('blank:imagenet100', split='validation', whole=Whole(96, 64, 48))
  assert whole.num_examples == 5000 and whole.stored_shape == (96, 96, 3)
  assert whole.load(np.arange(2))[0].shape == (2, 48, 48, 3)
  with pytest.raises(UserError, match=r'differ in size: set data\.image_size'):
    load_source('blank:imagenet2012')
  with pytest.raises(UserError, match="unknown data set of blank:NAME 'cifar'"):
    load_source('blank:cifar')


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('digits:3.0.0', "takes no path: leave ':3.0.0' out"),
    ('imagenet100:x', "takes no path: leave ':x' out"),
    ('folder', 'write folder:PATH'),
    ('npz:', 'write npz:FILE'),
    ('npz:nowhere', 'no file nowhere'),
    ('C:/nowhere.npz', 'no file C:/nowhere.npz'),
    ('npz:gs://b/x.npz', 'npz:gs://b/x.npz: images are read from a disk only: copy'),
    ('gs://b/x', 'gs://b/x: images are read from a disk only: copy'),
    ('fodler:/x', "cannot read the data set name 'fodler:/x'"),
  ],
)
def test_names_of_schemes(name, words):
  with pytest.raises(UserError, match=words):
    load_source(name)


def test_a_source_is_one_file(tmp_path, monkeypatch):
  (tmp_path / 'constant_level.py').write_text("""
import numpy as np
from clr_jax.data import ArraySource

def load(path, *, name, split, **options):
  return ArraySource(np.full((3, 2, 2), int(path), np.uint8), name=name, split=split)

def available(data_dir):
  return [('constant_level:LEVEL', 'three images')]
""")
  monkeypatch.setattr(sources, '__path__', [*sources.__path__, str(tmp_path)])
  schemes = ModuleRegistry('data source', sources.__name__, sources.__path__, function='load')
  monkeypatch.setattr(sources, 'SCHEMES', schemes)
  source = load_source('constant_level:7', split='test')
  assert (source.name, source.split, source.num_examples) == ('constant_level:7', 'test', 3)
  assert (source.arrays()[0] == 7).all()
  assert ('constant_level:LEVEL', 'three images') in available(str(tmp_path))


class TestChannels:
  """Against PIL, image by image."""

  def test_rgb_to_gray_is_pils_luma(self, npz):
    whole = load_source(f'npz:{npz}/toy_train.npz').arrays()[0]
    gray = load_source(f'npz:{npz}/toy_train.npz', channels=1)
    assert gray.image_shape == (6, 4, 1)
    expected = [np.asarray(Image.fromarray(image).convert('L')) for image in whole]
    np.testing.assert_array_equal(gray.arrays()[0][..., 0], expected)

  def test_every_gray_level_and_many_colors(self):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (2048, 4, 4, 3)).astype(np.uint8)  # more than one block
    colors[0, 0, :2] = [[0, 0, 0], [255, 255, 255]]
    wide = np.asarray(Image.fromarray(colors.reshape(2048, 16, 3)).convert('L'))
    np.testing.assert_array_equal(images.with_channels(colors, 1).reshape(2048, 16), wide)
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    there_and_back = images.with_channels(images.with_channels(levels, 3), 1)
    np.testing.assert_array_equal(there_and_back, levels)

  def test_gray_to_rgb_repeats(self):
    one, three = (load_source('digits', channels=c, image_size=16, limit=5) for c in (None, 3))
    assert three.image_shape == (16, 16, 3)
    np.testing.assert_array_equal(three.arrays()[0], np.repeat(one.arrays()[0], 3, axis=-1))
    assert one.checksum() != three.checksum()

  @pytest.mark.parametrize('channels', [1, 3])
  def test_files_and_arrays_give_the_same(self, tmp_path, channels):
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 256, (4, 9, 7, 3)).astype(np.uint8)
    np.savez(tmp_path / 'toy.npz', image=whole, label=np.arange(4))
    for i, image in enumerate(whole):
      (tmp_path / 'toy' / str(i)).mkdir(parents=True)
      Image.fromarray(image).save(tmp_path / 'toy' / str(i) / 'image.png')
    options = {'image_size': 5, 'channels': channels}
    arrays = load_source(f'npz:{tmp_path}/toy.npz', **options)
    files = load_source(f'folder:{tmp_path}/toy', **options)
    assert arrays.image_shape == files.image_shape == (5, 5, channels)
    for ours, theirs in zip(arrays.arrays(), files.arrays(), strict=True):
      np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(files.labels(), files.arrays()[1])

  def test_other_numbers(self):
    with pytest.raises(UserError, match=r'channels=2 .* one of 1, 3'):
      load_source('digits', channels=2)


class TestSubset:
  def test_it_reads_the_positions_and_keeps_the_classes(self, npz):
    whole = load_source(f'npz:{npz}/toy_train.npz')
    part = SubsetSource(whole, np.array([7, 2, 3]))
    assert (part.num_examples, part.num_classes, part.image_shape) == (3, 5, (6, 4, 3))
    assert part.labels().tolist() == [2, 2, 3]
    for both in (part.load(np.array([2, 0])), [x[[2, 0]] for x in part.arrays()]):
      np.testing.assert_array_equal(both[0], whole.arrays()[0][[3, 7]])
      assert both[1].tolist() == [3, 2]
    assert part.checksum() != SubsetSource(whole, np.array([7, 2, 4])).checksum()

  @pytest.mark.parametrize('positions', [[], [10], [-1]])
  def test_positions_that_are_not_there(self, npz, positions):
    with pytest.raises(UserError, match='needs at least one position, all from 0 to 9'):
      SubsetSource(load_source(f'npz:{npz}/toy_train.npz'), np.array(positions, int))

  def test_classes_whose_examples_have_changed(self, npz, monkeypatch):
    images, labels = load_source(f'npz:{npz}/toy_train.npz').arrays()
    whole = ArraySource(images, labels, class_names=tuple('abcde'))
    part = ClassSubset(whole, ('d', 'b'), name='part', split='train', limit=None)
    assert part.arrays()[1].tolist() == part.labels().tolist() == [1, 0, 1, 0]
    monkeypatch.setattr(whole, 'labels', lambda: np.roll(labels, 1))
    part = ClassSubset(whole, ('d', 'b'), name='part', split='train', limit=None)
    with pytest.raises(UserError, match='an example of part has a class outside it'):
      part.load(np.array([0]))


def test_many_images_are_read_by_threads_in_order(tmp_path, monkeypatch):
  monkeypatch.setattr(base, '_PART_BYTES', 2 * 4 * 4 * 3)  # two images a thread
  for i in range(23):
    path = tmp_path / ('ab'[i % 2]) / f'{i:02d}.png'
    path.parent.mkdir(exist_ok=True)
    images.Image.new('RGB', (4, 4), (i, 0, 0)).save(path)
  rows = np.arange(23)[::-1]
  got, labels = load_source(f'folder:{tmp_path}').load(rows)
  value = np.concatenate([np.arange(0, 23, 2), np.arange(1, 23, 2)])[rows]
  assert got[:, 0, 0, 0].tolist() == value.tolist()
  assert labels.tolist() == (value % 2).tolist()


def test_an_npz_file_without_permission(tmp_path, monkeypatch):
  (tmp_path / 'x.npz').touch()

  def refuse(path, mode):
    raise PermissionError(errno.EACCES, 'Permission denied', str(path))

  monkeypatch.setattr('builtins.open', refuse)
  with pytest.raises(UserError, match=r'x\.npz \(Permission denied\): make it readable'):
    load_source(f'npz:{tmp_path}/x.npz')
