"""ImageNet's scale: labels stored once, ImageNet-100, archives fetched by hand, damaged records."""

import hashlib
import threading
import time

import jax
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh

from clr_jax.core import locks
from clr_jax.core.errors import UserError
from clr_jax.data import available, label_store, load_source, preparing
from clr_jax.data.pipeline import make_pipeline
from clr_jax.data.sources import imagenet100
from clr_jax.data.sources import tfds as tfds_source
from tests.data.prepared import damage, imagenet_names, jpegs, prepare, toy

pytest.importorskip('array_record')
pytest.importorskip('tensorflow_datasets')

INSIDE = ('n13040303', 'n01558993', 'n03062245')  # of the list, in no order
SYNSETS = ('n01440764', *INSIDE, 'n15075141')


def prepare_imagenet(root, splits):
  names = imagenet_names()
  prepare(root, 'imagenet2012', splits, shape=(None, None, 3), class_names=names, shards=2)


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(tfds_source, '_STORE_LABELS_BYTES', 0)
  splits = {'train': jpegs(SYNSETS, 6), 'validation': jpegs(SYNSETS, 2, seed=1)}
  prepare_imagenet(tmp_path, splits)
  return tmp_path


def open_source(root, name='imagenet100', **options):
  return load_source(name, data_dir=str(root), image_size=16, **options)


def test_the_list_is_the_published_one():
  assert len(set(imagenet100.CLASSES)) == 100
  assert list(imagenet100.CLASSES) == sorted(imagenet100.CLASSES)
  assert set(imagenet100.CLASSES) <= set(imagenet_names())
  # From imagenet100.txt in HobbitLong/CMC, sorted.
  digest = hashlib.sha256('\n'.join(imagenet100.CLASSES).encode()).hexdigest()
  assert digest == 'd61d354b64beb3ce2c2c9cf04a874298362dc9fcd589e15ee34c5e4592145746'


def test_imagenet100_has_the_examples_of_its_classes_with_labels_0_to_99(imagenet):
  whole, source = open_source(imagenet, 'imagenet2012'), open_source(imagenet)
  assert (source.num_examples, source.num_classes, source.image_shape) == (18, 100, (16, 16, 3))
  assert source.class_names == imagenet100.CLASSES
  images, labels = whole.arrays()
  names = np.array(imagenet_names())[labels]
  kept = np.flatnonzero(np.isin(names, INSIDE))
  got, numbers = source.arrays()
  np.testing.assert_array_equal(got, images[kept])
  assert numbers.dtype == np.int32
  assert [imagenet100.CLASSES[n] for n in numbers] == names[kept].tolist()
  fresh = open_source(imagenet)
  np.testing.assert_array_equal(fresh.labels(), numbers)
  np.testing.assert_array_equal(fresh.load(np.array([7, 2]))[1], numbers[[7, 2]])
  assert open_source(imagenet, split='validation').num_examples == 6
  part = open_source(imagenet, split='train[50%:]', limit=4)
  np.testing.assert_array_equal(part.arrays()[0], got[9:13])
  assert (part.name, part.split) == ('imagenet100', 'train[50%:]')
  with pytest.raises(UserError, match='choose one of train, validation'):
    open_source(imagenet, split='test')
  assert 'imagenet100' in [name for name, _ in available(str(imagenet))]


def test_other_data_of_that_name_have_not_its_classes(tmp_path):
  prepare(tmp_path, 'imagenet2012', {'train': toy(6)})
  with pytest.raises(UserError, match="'train' of imagenet2012 does not name"):
    open_source(tmp_path)
  unlabeled = [(image, -1) for image, _ in jpegs(SYNSETS, 1)]
  prepare_imagenet(tmp_path, {'test': unlabeled})
  with pytest.raises(UserError, match="take train or validation of TFDS's own imagenet2012"):
    open_source(tmp_path, split='test')


@pytest.mark.parametrize('read_only', [False, True])
def test_the_labels_of_a_large_split_are_read_once(imagenet, monkeypatch, capfd, read_only):
  folder = imagenet / 'imagenet2012' / '1.0.0'
  expected = open_source(imagenet).labels()
  assert f'Reading the labels of 30 records in {folder}' in capfd.readouterr().err
  place = next(folder.glob('clr_jax-*.npy'))
  assert not (imagenet / 'cache').exists()
  if read_only:
    for path in (place, place.with_suffix('.lock')):
      path.unlink()
      path.mkdir()  # a file of this name cannot be written, by root neither
    np.testing.assert_array_equal(open_source(imagenet).labels(), expected)
    assert 'Reading the labels' in capfd.readouterr().err
    names = {path.name for path in (imagenet / 'cache' / 'clr_jax').iterdir()}
    assert names == {place.name, place.with_suffix('.lock').name}

  def unexpected(*_):
    raise AssertionError('the labels are read again')

  with monkeypatch.context() as patched:
    patched.setattr(tfds_source.TfdsSource, '_read_labels', unexpected)
    np.testing.assert_array_equal(open_source(imagenet).labels(), expected)
  if not read_only:
    place.write_bytes(place.read_bytes()[:-8])
    np.testing.assert_array_equal(open_source(imagenet).labels(), expected)
    assert 'Reading the labels' in capfd.readouterr().err


def test_other_files_of_the_same_names_have_other_labels(imagenet):
  first = open_source(imagenet).labels()
  info = imagenet / 'imagenet2012' / '1.0.0' / 'dataset_info.json'
  text = info.read_text()
  more = np.random.default_rng(0).bytes(10_000)  # the sizes of such files are multiples of 64 KiB
  examples = [(image + more, label) for image, label in jpegs(SYNSETS[::-1], 6, seed=2)]
  prepare_imagenet(imagenet, {'train': examples})
  info.write_text(text)
  source = open_source(imagenet)
  labels = source.labels()
  assert labels.tolist() != first.tolist()
  np.testing.assert_array_equal(labels, source.arrays()[1])


def test_only_the_labels_of_a_slice_are_read_and_those_of_little_data_not_stored(
  imagenet, monkeypatch, capfd
):
  whole = open_source(imagenet, 'imagenet2012').labels()
  capfd.readouterr()
  for _ in range(2):
    part = open_source(imagenet, 'imagenet2012', split='train[20%:40%]').labels()
    np.testing.assert_array_equal(part, whole[6:12])
  assert capfd.readouterr().err.count('Reading the labels of 6 records') == 1
  size = sum(file.stat().st_size for file in imagenet.rglob('*train.array_record*'))
  monkeypatch.setattr(tfds_source, '_STORE_LABELS_BYTES', size // 2)
  part = open_source(imagenet, 'imagenet2012', split='train[:40%]', limit=10).labels()
  np.testing.assert_array_equal(part, whole[:10])
  assert not capfd.readouterr().err


def test_labels_that_can_be_stored_nowhere(tmp_path, monkeypatch, caplog):
  def refuse(*_):
    raise PermissionError('read-only')

  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(label_store, 'atomic_write', refuse)
  folder = epath.Path(prepare(tmp_path, 'toy', {'train': toy(3)}))
  got = label_store.stored_labels(folder, ['x'], np.arange(3), lambda: np.arange(3))
  assert got.tolist() == [0, 1, 2]
  assert 'the next start reads the labels again' in caplog.text


def test_archives_that_are_missing_are_named_with_their_folder(tmp_path):
  folder = tmp_path / 'downloads' / 'manual'

  def message():
    with pytest.raises(UserError) as caught:
      open_source(tmp_path)
    assert '\n' not in str(caught.value)
    return str(caught.value)

  both = f'put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {folder}'
  assert both in message() and 'image-net.org/download-images' in message()
  folder.mkdir(parents=True)
  (folder / 'ILSVRC2012_img_train.tar').touch()
  assert f'put ILSVRC2012_img_val.tar into {folder}' in message()
  with pytest.raises(UserError, match=f'resisc45 .*put its archives into {folder}'):
    (folder / 'ILSVRC2012_img_train.tar').unlink()
    open_source(tmp_path, 'resisc45')


def test_processes_that_start_together_prepare_once(tmp_path, monkeypatch):
  arrived, prepared = threading.Barrier(2), []

  def check(*_):
    arrived.wait(60)  # both have found nothing

  def fake(name, root):
    prepared.append(name)
    prepare(root, name, {'train': toy(3)})

  monkeypatch.setattr(preparing, 'check', check)
  monkeypatch.setattr(preparing, 'prepare', fake)
  sizes = []
  threads = [
    threading.Thread(target=lambda: sizes.append(open_source(tmp_path, 'mnist').num_examples))
    for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert (prepared, sizes) == (['mnist'], [3, 3])


def test_a_process_that_waits_says_so(tmp_path, capfd):
  first, second, done = tmp_path / 'a' / '1.lock', tmp_path / 'b' / '1.lock', threading.Event()
  second.mkdir(parents=True)  # cannot be opened as a file

  def work():
    with locks.one_at_a_time(epath.Path(second), epath.Path(first)):
      done.set()

  thread, said, deadline = threading.Thread(target=work), '', time.monotonic() + 60
  with locks.one_at_a_time(epath.Path(first)):
    with locks.one_at_a_time(epath.Path(first.with_name('2.lock'))):  # of another data set
      assert not capfd.readouterr().err
    thread.start()
    # Read seldom: what is written between capfd's reading and emptying its file is lost.
    while not said.endswith('\n') and thread.is_alive() and time.monotonic() < deadline:
      time.sleep(0.2)
      said += capfd.readouterr().err
    assert f'Waiting for another process that prepares data in {first.parent} ...' in said
    assert not done.is_set()
  thread.join(60)
  assert done.is_set()


def read_all(root, workers):
  source = load_source('toy', data_dir=str(root), image_size=8)
  mesh = Mesh(np.array(jax.devices()[:1]), ('data',))
  pipeline = make_pipeline(
    source, batch_size=10, seed=0, mesh=mesh, mode='streamed', workers=workers
  )
  list(pipeline.blocks([(0, 4)]))


@pytest.mark.parametrize('workers', [0, 1])
def test_a_damaged_record_is_named_with_its_file(tmp_path, workers):
  folder = prepare(tmp_path, 'toy', {'train': toy(40, (40, 40, 3))}, shape=(40, 40, 3), shards=2)
  read_all(tmp_path, 0)
  source = load_source('toy', data_dir=str(tmp_path), image_size=8)
  damage(folder / 'toy-train.array_record-00001-of-00002', 'flip')
  with pytest.raises(UserError, match=r'the example (2|3)\d of toy train in .*00001-of-00002 \('):
    read_all(tmp_path, workers)
  source.load(np.arange(20))  # the other file is whole


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 1])
def test_a_file_that_is_cut_off_is_named(tmp_path, workers):
  folder = prepare(tmp_path, 'toy', {'train': toy(40, (40, 40, 3))}, shape=(40, 40, 3), shards=2)
  damage(folder / 'toy-train.array_record-00001-of-00002', 'cut')
  with pytest.raises(UserError, match=r'of toy train in .*00001-of-00002 \(.*prepared again'):
    read_all(tmp_path, workers)
  damage(folder / 'toy-train.array_record-00000-of-00002', 'cut')
  with pytest.raises(UserError, match=r'the example 0 of toy train in .*00000-of-00002'):
    read_all(tmp_path, workers)


def test_a_damaged_jpeg_is_named_with_its_file(tmp_path):
  examples = jpegs(('n01440764',), 4)
  examples[2] = (examples[2][0][:-300], 0)
  prepare(tmp_path, 'toy', {'train': examples}, shape=(None, None, 3), class_names=['x'] * 1000)
  source = load_source('toy', data_dir=str(tmp_path), image_size=8)
  with pytest.raises(UserError, match=r'cannot read the image 2 of toy train in .*00000-of-00001'):
    source.arrays()
