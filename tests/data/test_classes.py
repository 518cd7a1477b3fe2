"""Labels of any kind become class numbers, the same in all sets; sets that share images."""

import pickle

import numpy as np
import pytest
from PIL import Image

from clr_jax.core.errors import UserError
from clr_jax.data import ArraySource, SubsetSource, load_source, pairs
from clr_jax.data.slices import complement


def save(path, train, test=None, **more):
  rng = np.random.default_rng(0)
  for split, label in {'train': train, 'test': test, **more}.items():
    if label is not None:
      label = np.asarray(label)
      image = rng.integers(0, 256, (len(label), 2, 2), np.uint8)
      np.savez(path / f'{split}.npz', image=image, label=label)
  return f'npz:{path}/{{split}}.npz'


@pytest.mark.parametrize(
  ('labels', 'names'),
  [
    ([1, 10, 2], ('1', '2', '10')),
    ([0, 2**32, 2**33], ('0', str(2**32), str(2**33))),
    (np.array([2**64 - 1, 5], np.uint64), ('5', str(2**64 - 1))),
    ([-7, 3, -(2**63)], (str(-(2**63)), '-7', '3')),
    ([1, -1], ('-1', '1')),
    ([20_000_001, 1], ('1', '20000001')),
    ([True, False], ('False', 'True')),
    (['dog', 'cat'], ('cat', 'dog')),
    ([b'dog', b'c\xe9'], ('c\\xe9', 'dog')),
    ([2, 0, 1], None),
    (np.array([1, 0], np.uint8), None),
  ],
)
def test_distinct_labels_are_numbered_in_ascending_order(tmp_path, labels, names):
  source = load_source(save(tmp_path, labels))
  numbers = source.arrays()[1]
  assert numbers.dtype == np.int32
  assert source.class_names == names
  assert source.num_classes == len(set(np.asarray(labels).tolist()))
  if names is None:
    assert numbers.tolist() == np.asarray(labels).tolist()
  elif not isinstance(labels[0], bytes):
    assert [names[i] for i in numbers] == [str(v) for v in np.asarray(labels).tolist()]
  again = ArraySource(np.zeros((len(labels), 2, 2), np.uint8), np.asarray(labels))
  assert (again.num_classes, again.class_names) == (source.num_classes, names)


@pytest.mark.parametrize(
  ('labels', 'words'),
  [
    ([0.0, 1.0], r'2 integers or texts, one per image, got float64 of shape \[2\]: convert'),
    ([[0], [1]], r'got int64 of shape \[2, 1\]'),
    (np.array([0, 1], 'M8[D]'), 'datetime64'),
    (np.array([0, None]), r'cannot read .*train\.npz as an \.npz file .*: save it again'),
    ([0, -1, 3], '1 of 3 labels are -1, which stands for no label: keep unlabeled images in a'),
  ],
)
def test_labels_that_are_none(tmp_path, labels, words):
  with pytest.raises(UserError, match=words):
    load_source(save(tmp_path, labels))


def test_labels_that_are_all_minus_one_are_no_labels(tmp_path):
  source = load_source(save(tmp_path, [-1, -1]))
  assert (source.num_classes, source.labels()) == (None, None)
  assert source.checksum() == ArraySource(source.arrays()[0]).checksum()


def test_numbers_that_are_given_are_kept():
  images = np.zeros((2, 2, 2), np.uint8)
  assert ArraySource(images, np.array([2, 0]), num_classes=5).arrays()[1].tolist() == [2, 0]
  for labels in ([5, 0], [-2, 0], ['a', 'b']):
    with pytest.raises(UserError, match='labels of 5 classes must be integers from 0 to 4'):
      ArraySource(images, np.array(labels), num_classes=5)


def test_all_splits_have_the_numbers_of_the_training_split(tmp_path):
  name = save(tmp_path, [10, 30, 20], [30, 30], extra=[20, 40, 5])
  train, test, extra = (load_source(name, split=s) for s in ('train', 'test', 'extra'))
  assert test.arrays()[1].tolist() == [2, 2] and test.class_names == train.class_names
  assert extra.class_names == ('10', '20', '30', '5', '40')
  assert load_source(name, split='test[:1]').num_classes == 3
  assert pairs.numbered_as(test, train) is test
  with pytest.raises(UserError, match=r'the 5 classes of .* are not the 3 of .* no image of 5'):
    pairs.numbered_as(extra, train)
  pairs.refuse_other_classes(test, train)
  pairs.refuse_unseen_classes(test, train)
  part = SubsetSource(train, np.array([0]))
  with pytest.raises(UserError, match=r'the 1 classes of .* are not the 1 of .* no image of 30'):
    pairs.refuse_unseen_classes(test, part)


def test_a_set_is_numbered_as_another(tmp_path):
  train = ArraySource(np.zeros((3, 2, 2), np.uint8), np.array(['a', 'b', 'c']))
  image = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
  test = pairs.numbered_as(ArraySource(image, np.array(['c', 'b'])), train)
  assert (test.class_names, test.num_classes) == (('a', 'b', 'c'), 3)
  for source in (test, pickle.loads(pickle.dumps(test))):
    assert source.labels().tolist() == source.known_labels().tolist() == [2, 1]
    images, labels = source.load(np.array([1]))
    assert labels.tolist() == [1] and (images[..., 0] == image[1:]).all()
    assert source.arrays()[1].tolist() == [2, 1]


def test_classes_without_names(tmp_path):
  image = np.zeros((3, 2, 2), np.uint8)
  words = ArraySource(image, np.array([0, 1, 2]), class_names=('a', 'b', 'c'))
  plain = ArraySource(image, np.array([0, 1, 1]))
  assert pairs.numbered_as(plain, words) is plain  # numbers of the same classes
  shifted = ArraySource(image, np.array([1, 2, 3]))
  with pytest.raises(UserError, match='no image of 0: choose'):
    pairs.numbered_as(plain, shifted)


# ---------------------------------------------------------------- shared images
def shared(first, second, name, other=None):
  training, source = load_source(name, split=first), load_source(other or name, split=second)
  try:
    pairs.refuse_shared_images(source, 'data.test_split', training, 'data.train_split')
  except UserError as error:
    return str(error)
  return ''


@pytest.mark.parametrize(
  ('first', 'second', 'remedy'),
  [
    ('train', 'train[80%:]', "data.train_split='train[:80%]' and data.test_split='train[80%:]'"),
    ('train', 'train[:100]', "data.train_split='train[100:]' and data.test_split='train[:100]'"),
    ('train[:90%]', 'train', "'train[:90%]' and data.test_split='train[90%:]'"),
    ('train', 'train', "'train[:90%]' and data.test_split='train[90%:]'"),
    ('train[5:50]', 'train[49:60]', "'train[:90%]' and data.test_split='train[90%:]'"),
    ('train[:80%]', 'train[-300:]', "'train[:-300]' and data.test_split='train[-300:]'"),
    ('train[:80%]', 'train[80%:]', ''),
    ('train[:100]', 'train[100:200]', ''),
    ('train', 'test', ''),
  ],
)
def test_slices_that_share_images(tmp_path, first, second, remedy):
  found = shared(first, second, save(tmp_path, np.arange(1000) % 7, np.arange(9) % 7))
  assert remedy in found and bool(found) == bool(remedy)


def test_one_place_by_two_names(tmp_path):
  name = save(tmp_path, [0, 1, 0, 1], [0, 1])
  (tmp_path / 'link').symlink_to(tmp_path)
  other = f'npz:{tmp_path}/x/../link/{{split}}.npz'
  (tmp_path / 'x').mkdir()
  assert '1 of the 1 images' in shared('train', 'train[:1]', name, other)
  assert not shared('train[1:]', 'train[:1]', name, other)
  assert not shared('train', 'test', name, f'{tmp_path}/{{split}}.npz')
  for i in range(4):
    (tmp_path / 'f' / 'train' / 'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
    Image.new('L', (2, 2)).save(tmp_path / 'f' / 'train' / 'ab'[i % 2] / f'{i}.png')
  folder = f'folder:{tmp_path}/f'
  assert '2 of the 2' in shared('train', 'train[50%:]', folder, f'folder:{tmp_path}/link/f/train')
  assert not shared('train[:50%]', 'train[50%:]', folder)


def test_images_that_both_splits_have_through_a_link(tmp_path):
  for i, (split, name) in enumerate((s, c) for s in ('train', 'test') for c in 'abb'):
    (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
    Image.new('L', (2, 2), i).save(tmp_path / split / name / f'{i}.png')
  folder = f'folder:{tmp_path}'
  assert not shared('train', 'test', folder)
  (tmp_path / 'train' / 'a' / 'more').symlink_to(tmp_path / 'test' / 'b')
  found = shared('train', 'test', folder)
  assert "2 of the 3 images of data.test_split='test' are also in data.train_split=" in found
  assert found.endswith('through links to folders: remove the links')


def test_a_copy_of_the_training_images_is_no_test_set(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (300, 3, 3), np.uint8)
  other = np.where(np.arange(300)[:, None, None] % 3, ~image, image)[::-1]
  sets = {
    'train': image,
    'copy': image[10:60][::-1],
    'test': other,
    'white': image | 255,
    'blank': image | 255,
  }
  for name, images in sets.items():
    np.savez(tmp_path / f'{name}.npz', image=images, label=np.arange(len(images)) % 7)
  name = f'npz:{tmp_path}/{{split}}.npz'
  found = shared('train', 'copy', name)
  assert "the images of data.test_split='copy' of npz:" in found and '(50 of 50 that' in found
  assert "data.train_split='train'" in found and found.endswith(': name other test images')
  assert not shared('train', 'test', name)
  assert not shared('white', 'blank', name)  # tells nothing
  source = load_source(name, split='test')
  for _ in range(2):  # said once
    pairs.refuse_shared_images(source, 'data.test_split', load_source(name), 'data.train_split')
  assert source.notes == ('40 of 128 images that were compared are also in data.train_split',)


@pytest.mark.parametrize('kind', ['names', 'other_names', 'damaged', 'others'])
def test_a_copy_of_a_folder_is_no_test_set(tmp_path, kind):
  rng = np.random.default_rng(0)
  for i in range(20):
    for split in ('train', 'test'):
      folder = tmp_path / split / 'ab'[i % 2]
      folder.mkdir(parents=True, exist_ok=True)
      if split == 'train' or kind == 'others':
        image = rng.integers(0, 256, (4, 4, 3), np.uint8)
      file = folder / f'{i + (split == "test") * (kind != "names")}.bmp'
      Image.fromarray(image).save(file)
      if kind == 'damaged' and split == 'test':
        file.write_bytes(file.read_bytes()[:-1])
  found = shared('train', 'test', f'folder:{tmp_path}')
  assert bool(found) == (kind in ('names', 'other_names'))
  assert not found or '(20 of 20 that' in found


def test_a_copy_of_another_kind_is_no_test_set(tmp_path, monkeypatch):
  image = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
  for i in range(20):
    (tmp_path / 'ab'[i // 10]).mkdir(exist_ok=True)
    Image.fromarray(image[i]).save(tmp_path / 'ab'[i // 10] / f'{i:02}.png')
  np.savez(tmp_path / 'x.npz', image=image, label=np.arange(20) // 10)
  first, second = f'folder:{tmp_path}', f'npz:{tmp_path}/x.npz'
  assert '(20 of 20 that' in shared('train', 'train', first, second)
  assert '(20 of 20 that' in shared('train', 'train', second, first)
  assert not shared('train', 'train[5:]', first, second)  # neither in memory nor of one size


def test_the_rest_of_a_slice():
  splits = ('train[80%:]', 'x[:-5]', 'train', 'train[1:2]', 'train[:]')
  assert [complement(s) for s in splits] == ['train[:80%]', 'x[-5:]', None, None, None]


# ---------------------------------------------------------------- what is said
def test_what_was_found_is_one_line(tmp_path):
  for i, name in enumerate(('a', 'b')):
    (tmp_path / name).mkdir()
    Image.new('L', (4, 2), i).save(tmp_path / name / '1.png')
  (tmp_path / 'b' / 'x.gif').touch()
  assert pairs.describe('training images', load_source(f'folder:{tmp_path}')) == (
    f'training images: folder:{tmp_path} train, 2 images of 2x4x3, 2 classes (a, b); '
    'not read: 1 .gif'
  )
  images = np.zeros((3, 2, 2), np.uint8)
  line = pairs.describe('x', ArraySource(images, np.array([7, 7, 7])))
  assert line == (
    'x: arrays train, 3 images of 2x2x1, one class only (7), so there is nothing to classify'
  )
  assert pairs.describe('x', ArraySource(images)).endswith('2x2x1, no labels')
