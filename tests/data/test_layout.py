"""Which sub-folders of an image folder are splits and which are classes; what is said of it."""

import os

import pytest

from clr_jax.core.errors import UserError
from clr_jax.data.layout import read_split


def make(root, *files):
  for file in files:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  return root


@pytest.mark.parametrize(
  ('train', 'other', 'asked'),
  [
    ('train', 'test', 'test'),
    ('Train', 'Test', 'test'),
    ('Training', 'Testing', 'test'),
    ('TRAIN', 'VALID', 'val'),
    ('training', 'validation', 'valid'),
    ('train_images', 'test_images', 'test'),
    ('Training set', 'Validation set', 'test'),  # 'test' falls back on it
    ('trainData', 'valData', 'validation'),
  ],
)
def test_splits_by_their_names_in_any_case(tmp_path, train, other, asked):
  make(
    tmp_path, f'{train}/a/1.png', f'{train}/b/1.png', f'{other}/b/1.png', 'labels/b.txt', 'x.png'
  )
  found = [read_split(tmp_path, base) for base in ('train', asked)]
  assert [part.folder for part in found] == [str(tmp_path / name) for name in (train, other)]
  assert [part.class_names for part in found] == [('a', 'b')] * 2
  assert found[0].classes == ['a', 'b'] and found[1].classes == ['b']
  assert 'left out, beside the splits: labels, 1 loose images' in found[0].notes
  assert 'no image of a' in found[1].notes


def test_another_folder_of_the_same_split_is_said(tmp_path):
  make(tmp_path, 'train/a/1.png', 'Training/a/2.png', 'test/a/1.png', 'testing/a/2.png')
  for base, other in (('train', 'Training'), ('test', 'testing')):
    found = read_split(tmp_path, base)
    assert found.files == ['a/1.png'] and f'left out, beside the splits: {other}' in found.notes


@pytest.mark.parametrize('beside', ['labels', 'labels/notes.txt', 'extra/1.png'])
def test_flat_splits_beside_another_folder_are_no_classes(tmp_path, beside):
  make(tmp_path, 'train/1.png', 'test/2.png')
  if '.' in beside:
    make(tmp_path, beside)
  else:
    (tmp_path / beside).mkdir()
  found = [read_split(tmp_path, base) for base in ('train', 'test')]
  assert [part.classes for part in found] == [None, None]
  assert [part.files for part in found] == [['1.png'], ['2.png']]
  assert 'no class folders, so unlabeled' in found[0].notes


def test_train_may_be_a_class_and_it_is_said(tmp_path):
  found = read_split(make(tmp_path, 'train/1.png', 'tram/1.png'), 'train')
  assert found.class_names == ('train', 'tram')
  assert "'train' is taken as a class, not as a split" in found.notes


@pytest.mark.parametrize(
  ('files', 'words'),
  [
    (['test/1.png', 'cat/1.png', 'dog/1.png'], 'holds test, the name of a split, beside cat, dog'),
    (['cat/1.png', 'Validation/x/1.png'], 'holds Validation, the name of a split, beside cat'),
    (['test/a/1.png', 'val/a/1.png'], 'no training split, only test, val: make the sub-folder'),
    (['train/train/1.png', 'train/test/1.png'], 'test, train in .*/train has the name of a split'),
    (
      ['data/train/a/1.png', 'data/test/a/1.png'],
      'test, train in .*/data .* folder:.*/data as the',
    ),
    (['Training/a/1.png', 'TrainSet/a/1.png'], 'folders TrainSet, Training of .* are one split'),
    (['bolt/train/ok/1.png', 'bolt/test/ok/1.png', 'nut/train/ok/1.png'], 'hold splits, such as'),
    (['train/a/1.png', 'train/b/1.gif'], r'train/b holds no image that is read, only 1 \.gif'),
    (['train/a/1.png', 'train/b/x/1.npy'], r'only 1 \.npy: convert them to PNG or JPEG'),
    (['train/a/1.gif', 'train/b/1.gif', 'readme.txt'], r'holds no image, only 2 \.gif: give a'),
  ],
)
def test_what_is_unclear_is_refused(tmp_path, files, words):
  with pytest.raises(UserError, match=words):
    read_split(make(tmp_path, *files), 'train')


def test_an_empty_class_folder_is_refused_and_one_of_other_files_is_left_out(tmp_path):
  make(tmp_path, 'train/a/1.png', 'train/b/1.png', 'train/boxes/a.xml', 'test/a/1.png')
  (tmp_path / 'test' / 'b').mkdir()
  assert read_split(tmp_path, 'test').classes == ['a']  # the number of a class does not change
  found = read_split(tmp_path, 'train')
  assert found.class_names == ('a', 'b')
  assert 'no classes, as no image is in them: boxes' in found.notes
  assert 'not read: 1 .xml' in found.notes
  (tmp_path / 'train' / 'c' / 'nothing').mkdir(parents=True)
  for split in ('train', 'test'):
    with pytest.raises(UserError, match=r'train/c holds no image that is read: add images, or'):
      read_split(tmp_path, split)


@pytest.mark.parametrize('wrapped', ['images', 'images/all', 'x'])
def test_classes_one_level_deeper_are_found_and_it_is_said(tmp_path, wrapped):
  make(tmp_path, f'{wrapped}/a/1.png', f'{wrapped}/b/deep/1.png', 'labels/1.txt')
  found = read_split(tmp_path, 'train')
  assert (found.folder, found.class_names) == (f'{tmp_path}/{wrapped}', ('a', 'b'))
  assert found.files == ['a/1.png', 'b/deep/1.png']
  assert f'the classes are the sub-folders of {wrapped}' in found.notes


def test_a_class_of_the_training_split_is_never_looked_into(tmp_path):
  make(tmp_path, 'train/a/1.png', 'train/b/1.png', 'test/a/x/1.png', 'test/a/y/1.png')
  assert read_split(tmp_path, 'test').classes == ['a', 'a']
  make(tmp_path, 'val/images/a/1.png', 'val/images/b/1.png')
  assert read_split(tmp_path, 'val').classes == ['a', 'b']


def test_one_class_stays_one(tmp_path):
  assert read_split(make(tmp_path, 'a/1.png', 'a/x/2.png'), 'train').class_names == ('a',)


def test_a_linked_class_is_read_once(tmp_path):
  make(tmp_path, 'a/1.png', 'b/1.png')
  os.symlink('.', tmp_path / 'all')
  found = read_split(tmp_path, 'train')
  assert found.class_names == ('a', 'b') and len(found.files) == 2
  assert 'no classes, as no image is in them: all' in found.notes


def test_annotations_that_are_no_text(tmp_path):
  make(tmp_path, 'train/a/1.png', 'val/images/1.png')
  (tmp_path / 'val' / 'val_annotations.txt').write_bytes(b'\xff\xfe\x00')
  with pytest.raises(UserError, match=r'cannot read .*val_annotations\.txt .*: unpack the folder'):
    read_split(tmp_path, 'val')
