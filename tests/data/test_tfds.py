import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from clr_jax.core.errors import UserError
from clr_jax.data import available, load_source, preparing
from clr_jax.data.sources.tfds import prepared
from tests.data.prepared import encoded, prepare, toy

pytest.importorskip('array_record')
load = pytest.importorskip('tensorflow_datasets.core.load')


@pytest.fixture
def toy_dir(tmp_path):
  prepare(tmp_path, 'toy', {'train': toy(20), 'test': toy(6), 'unlabelled': toy(4, label=-1)})
  return tmp_path


def test_random_access_labels_and_names(toy_dir):
  source = load_source('toy', data_dir=str(toy_dir))
  assert (source.num_examples, source.image_shape, source.num_classes) == (20, (5, 4, 3), 3)
  assert source.class_names == ('cat', 'dog', 'eel')
  images, labels = source.load(np.array([13, 0, 7]))
  assert labels.dtype == np.int32
  for image, label, i in zip(images, labels, (13, 0, 7), strict=True):
    np.testing.assert_array_equal(image, toy(20)[i][0])
    assert label == i % 3
  everything, _ = source.arrays()
  np.testing.assert_array_equal(everything, np.stack([x for x, _ in toy(20)]))
  assert source.checksum() == load_source('toy:1.0.0', data_dir=str(toy_dir)).checksum()


def test_slices_limit_and_image_size(toy_dir):
  part = load_source('toy', data_dir=str(toy_dir), split='train[50%:]', limit=3, image_size=4)
  assert (part.num_examples, part.image_shape) == (3, (4, 4, 3))
  images, labels = part.load(np.array([2]))
  assert labels.tolist() == [12 % 3]
  np.testing.assert_array_equal(images[0], toy(20)[12][0][:4])  # 5 rows: the crop starts at 0


def test_what_tfds_ignores_of_an_image_is_said(tmp_path):
  """The pixels are those that TFDS gives, the notes say what the folder of images would get."""
  buffer, exif = io.BytesIO(), Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  Image.new('RGB', (4, 5), 'red').save(buffer, 'JPEG', exif=exif)
  clear = encoded(np.zeros((5, 4, 4), np.uint8))
  images = {'train': [(buffer.getvalue(), 0), (clear, 1)], 'test': toy(3)}
  prepare(tmp_path, 'toy', images)
  source = load_source('toy', data_dir=str(tmp_path))
  assert source.notes == (
    'the orientation in EXIF is ignored, as TFDS does',
    'transparency is ignored, as TFDS does',
  )
  red, black = source.arrays()[0][:2]
  assert red.shape == (5, 4, 3) and not black.any()
  assert load_source('toy', split='test', data_dir=str(tmp_path)).notes == ()


def test_a_folder_of_data_sets_with_one_that_nobody_may_read(tmp_path, toy_dir, monkeypatch):
  (toy_dir / 'lost+found').mkdir(exist_ok=True)
  listdir = os.listdir

  def refuse(path):
    if str(path).endswith('lost+found') or str(path).endswith('closed'):
      raise PermissionError(13, 'Permission denied', str(path))
    return listdir(path)

  monkeypatch.setattr(os, 'listdir', refuse)
  assert ('toy', '1.0.0') in prepared(str(toy_dir))
  (tmp_path / 'closed').mkdir()
  with pytest.raises(UserError, match=r'closed cannot be read \(Permission denied\): make it'):
    prepared(str(tmp_path))


def test_channels_and_labels_alone(toy_dir):
  source = load_source('toy', data_dir=str(toy_dir), channels=1)
  assert source.image_shape == (5, 4, 1)
  gray = [np.asarray(Image.fromarray(x).convert('L')) for x, _ in toy(20)]
  np.testing.assert_array_equal(source.arrays()[0][..., 0], gray)
  again = load_source('toy', data_dir=str(toy_dir), split='train[3:]')
  labels = again.labels()
  assert labels.dtype == np.int32 and labels.tolist() == [i % 3 for i in range(3, 20)]
  np.testing.assert_array_equal(labels, again.arrays()[1])


def test_a_split_of_unlabelled_examples_has_no_labels(toy_dir):
  source = load_source('toy', data_dir=str(toy_dir), split='unlabelled')
  assert source.arrays()[1] is None
  assert source.num_classes is None


def test_images_of_several_sizes_need_image_size(tmp_path):
  examples = [toy(1, (5, 4, 3))[0], toy(1, (9, 6, 3))[0]]
  prepare(tmp_path, 'mixed', {'train': examples}, shape=(None, None, 3))
  with pytest.raises(UserError, match=r'mixed differ in size: set data.image_size'):
    load_source('mixed', data_dir=str(tmp_path))
  assert load_source('mixed', data_dir=str(tmp_path), image_size=4).arrays()[0].shape[1:] == (
    4,
    4,
    3,
  )


def test_configurations(tmp_path):
  for config in ('easy', 'hard'):
    prepare(tmp_path, f'toy/{config}', {'train': toy(3 if config == 'easy' else 4)})
  assert load_source('toy/hard', data_dir=str(tmp_path)).num_examples == 4
  with pytest.raises(UserError, match='choose one of toy/easy, toy/hard'):
    load_source('toy', data_dir=str(tmp_path))
  names = [name for name, _ in available(str(tmp_path))]
  assert names[-2:] == ['toy/easy', 'toy/hard']


def test_unknown_split_lists_the_known_ones(toy_dir):
  with pytest.raises(UserError, match="no split 'tset': choose one of train, test, unlabelled"):
    load_source('toy', data_dir=str(toy_dir), split='tset')


def test_a_format_without_random_access(tmp_path):
  prepare(tmp_path, 'toy', {'train': toy(2)}, file_format='tfrecord')
  with pytest.raises(UserError, match='without random access'):
    load_source('toy', data_dir=str(tmp_path))


def test_unknown_name_offers_close_ones(tmp_path):
  with pytest.raises(UserError, match='did you mean cifar10'):
    load_source('cifra10', data_dir=str(tmp_path / 'new'))
  assert not (tmp_path / 'new').exists()
  with pytest.raises(UserError, match='cannot read the data set name'):
    load_source('what is this?', data_dir=str(tmp_path))


def test_without_tensorflow_one_sentence_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setattr(preparing.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError) as caught:
    load_source('cifar10', data_dir=str(tmp_path))
  message = str(caught.value)
  assert message.endswith("needs TensorFlow, once: pip install 'clr-jax[tfds]'")
  assert '\n' not in message
  assert not any(tmp_path.iterdir())


def test_a_package_that_a_data_set_needs_is_named(tmp_path, monkeypatch):
  def builder_cls(name):
    raise ModuleNotFoundError("No module named 'h5py'\nmore")

  monkeypatch.setattr(load, 'builder_cls', builder_cls)
  with pytest.raises(UserError, match=r"sift1m needs a package .*\(No module named 'h5py'\)"):
    load_source('sift1m', data_dir=str(tmp_path))


@pytest.mark.parametrize('good', [True, False])
def test_preparation_runs_in_a_child_process(tmp_path, monkeypatch, capfd, good):
  def child(command, **kwargs):
    module, folder = 'clr_jax.data.prepare_tfds', f'--data_dir={tmp_path}'
    assert command[1:] == ['-m', module, 'mnist', folder, '--with_parent']
    if good:
      prepare(tmp_path, 'mnist', {'train': toy(3)})
    return subprocess.CompletedProcess(command, 0 if good else 1, 'noise\nno network\n')

  monkeypatch.setattr(preparing.importlib.util, 'find_spec', lambda name: object())
  monkeypatch.setattr(preparing.subprocess, 'run', child)
  if good:
    assert load_source('mnist', data_dir=str(tmp_path)).num_examples == 3
  else:
    with pytest.raises(UserError, match='preparing mnist failed: no network'):
      load_source('mnist', data_dir=str(tmp_path))
  assert 'Preparing mnist' in capfd.readouterr().err


def test_the_child_reports_a_failure_in_its_last_line(tmp_path):
  command = [sys.executable, '-m', 'clr_jax.data.prepare_tfds', 'no_such', f'--data_dir={tmp_path}']
  child = subprocess.run(command, capture_output=True, text=True, check=False)
  assert child.returncode == 1
  assert len(child.stdout.strip().splitlines()[-1]) > 10


def test_the_child_ends_with_its_parent_and_by_no_signal():
  """A terminal sends its signals to both. The child's own work is not reached."""
  code = (
    'import time; from clr_jax.data import prepare_tfds; '
    'prepare_tfds._end_with_parent(); print("ready", flush=True); time.sleep(100)'
  )
  command = [sys.executable, '-c', code]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
    assert child.stdout.readline() == 'ready\n'
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
      child.send_signal(number)
    time.sleep(0.2)
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(timeout=60) == 1


def test_more_files_than_the_usual_limit(tmp_path):
  prepare(tmp_path, 'toy', {'train': toy(150)}, shards=150)
  code = (
    'import resource; from clr_jax.data import load_source\n'
    'hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n'
    'resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n'
    f'load_source("toy", data_dir={str(tmp_path)!r}).arrays()\n'
  )
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


class Reader:
  """Fails with an error: at every call, or when it is asked for several examples."""

  def __init__(self, error, always):
    self.error, self.always = error, always

  def __getitems__(self, rows):
    if self.always or len(rows) > 1:
      raise self.error
    return [{}]


@pytest.mark.parametrize(
  ('error', 'always', 'kind', 'words'),
  [
    (RuntimeError('open() failed: Too many open files; x'), True, UserError, 'raise `ulimit -n`'),
    (MemoryError('full'), True, MemoryError, 'full'),
    (RuntimeError('once'), False, RuntimeError, 'once'),
    (RuntimeError('bad'), True, UserError, r'the example 4 of toy train in .*bad.*restore'),
  ],
)
def test_only_a_damaged_record_is_called_so(toy_dir, error, always, kind, words):
  source = load_source('toy', data_dir=str(toy_dir))
  source._reader = Reader(error, always)
  with pytest.raises(kind, match=words):
    source.load(np.array([4, 2]))


@pytest.mark.parametrize('file', ['dataset_info.json', 'features.json'])
@pytest.mark.parametrize('kind', ['{', '[]', '{}', 'pipe'])
def test_a_damaged_description(toy_dir, file, kind):
  path = toy_dir / 'toy' / '1.0.0' / file
  path.unlink()
  os.mkfifo(path) if kind == 'pipe' else path.write_text(kind)
  says = r'the description of toy in .*1\.0\.0 is damaged \(.*\): restore dataset_info.json and'
  with pytest.raises(UserError, match=says):
    load_source('toy', data_dir=str(toy_dir))


def test_a_pipe_in_the_place_of_a_file_of_examples(toy_dir):
  (path,) = (toy_dir / 'toy' / '1.0.0').glob('toy-train*')
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(UserError, match=f'{path} is not a regular file: restore it, or remove'):
    load_source('toy', data_dir=str(toy_dir))


def test_reading_imports_no_tensorflow(toy_dir):
  code = (
    'import sys; from clr_jax.data import load_source\n'
    f'load_source("toy", data_dir={str(toy_dir)!r}).arrays()\n'
    'sys.exit("tensorflow" in sys.modules)'
  )
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_a_file_in_the_place_of_the_folder(tmp_path, monkeypatch):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match=r'data.data_dir=.*file is not a folder: correct the path'):
    load_source('toy', data_dir=f'{tmp_path}/file')
  monkeypatch.setenv('TFDS_DATA_DIR', '/dev/null')
  with pytest.raises(UserError, match='TFDS_DATA_DIR=/dev/null is not a folder'):
    load_source('toy')


def test_the_real_fashion_mnist():
  root = os.environ.get('TFDS_DATA_DIR') or os.path.expanduser('~/tensorflow_datasets')
  if not list(Path(root).glob('fashion_mnist/*/features.json')):
    pytest.skip(f'fashion_mnist is not prepared in {root}')
  source = load_source('fashion_mnist', split='train[:300]')
  assert (source.num_examples, source.image_shape, source.num_classes) == (300, (28, 28, 1), 10)
  assert source.class_names[9] == 'Ankle boot'
  images, labels = source.arrays()
  assert 60 < images.mean() < 85  # 72.9 over the whole training set
  assert len(set(labels.tolist())) == 10
