"""Splits of a data set joined by +."""

import numpy as np
import pytest
from PIL import Image

from clr_jax.core.errors import UserError
from clr_jax.data import SubsetSource, Whole, load_source, pairs, sizes_of
from clr_jax.data.joined import JoinedSource
from tests.data.prepared import prepare


@pytest.fixture
def files(tmp_path):
  """Name of an npz data set: two labeled splits, an unlabeled one, and one of larger images."""
  rng = np.random.default_rng(0)
  for split, count, side, labels in (
    ('train', 6, 4, [0, 1, 2, 0, 1, 2]),
    ('more', 4, 4, [2, 1, 0, 0]),
    ('unlabelled', 5, 4, None),
    ('large', 2, 8, None),
  ):
    image = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    given = {} if labels is None else {'label': np.array(labels)}
    np.savez(tmp_path / f'{split}.npz', image=image, **given)
  return f'npz:{tmp_path}/{{split}}.npz'


def test_labeled_parts_follow_one_another(files):
  one, other = load_source(files, split='train[2:]'), load_source(files, split='more')
  both = load_source(files, split='train[2:]+more')
  assert (both.num_examples, both.num_classes, both.split) == (8, 3, 'train[2:]+more')
  assert list(both.labels()) == [*one.labels(), *other.labels()]
  np.testing.assert_array_equal(both.arrays()[0], [*one.arrays()[0], *other.arrays()[0]])
  image, label = load_source(files, split='train[2:]+more').load(np.array([7, 0, 4]))
  np.testing.assert_array_equal(
    image, [other.arrays()[0][3], one.arrays()[0][0], other.arrays()[0][0]]
  )
  assert list(label) == [0, 2, 2]
  assert load_source(files, split='train+more', limit=7).num_examples == 7


def test_labels_are_left_out_where_a_part_has_none(files):
  found = load_source(files, split='train+unlabelled')
  assert (found.num_examples, found.num_classes, found.labels()) == (11, None, None)
  assert found.load(np.arange(11))[1] is None
  assert found.notes == ('its labels are not used, because a part has none',)


def test_shared_images_are_found_in_every_part(files):
  both, train = load_source(files, split='train[:4]+more'), load_source(files, split='train[3:]')
  assert both.shared_examples(train) == train.shared_examples(both) == 1
  assert SubsetSource(both, np.array([0, 3, 9 - 2])).shared_examples(train) == 1
  with pytest.raises(UserError, match=r'1 of the 3 images of b=.* such as a='):
    pairs.refuse_shared_images(train, 'b', both, 'a')
  with pytest.raises(UserError, match='repeats images: name each part once'):
    load_source(files, split='train[:4]+train[3:]')


@pytest.mark.parametrize(
  ('split', 'message'),
  [
    ('train+large', 'are 8x8x3 and those of train 4x4x3: set data.image_size'),
    ('train+', "cannot read the split 'train\\+'"),
    ('train+lost', 'there is no file'),
  ],
)
def test_refused(files, split, message):
  with pytest.raises(UserError, match=message):
    load_source(files, split=split)


def test_unlabeled_tfds_split_beside_a_labeled_one(tmp_path):
  """As STL-10: every label of 'unlabelled' is -1."""
  images = np.random.default_rng(0).integers(0, 256, (9, 5, 4, 3), np.uint8)
  prepare(tmp_path, 'stl', {
    'train': [(image, 1) for image in images[:3]],
    'unlabelled': [(image, -1) for image in images[3:]],
  })  # fmt: skip
  found = load_source('stl', split='train+unlabelled', data_dir=str(tmp_path))
  assert isinstance(found, JoinedSource) and found.num_classes is None
  np.testing.assert_array_equal(found.load(np.arange(9))[0], images)
  train = load_source('stl', split='train', data_dir=str(tmp_path))
  assert train.shared_examples(found) == 3


def test_folders_of_several_sizes(tmp_path):
  for split, sizes in (('train', [(8, 8), (8, 8)]), ('test', [(8, 8), (12, 9)])):
    for i, size in enumerate(sizes):
      path = tmp_path / split / 'a' / f'{i}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.new('RGB', size, (10 * i, 0, 0)).save(path)
  name = f'folder:{tmp_path}'
  found = sizes_of(name, split='train+test', data_dir=None, choose=np.arange)
  assert found.tolist() == [[8, 8], [8, 8], [8, 8], [9, 12]]
  whole = Whole(canvas=16, shorter=8, size=8)
  assert load_source(name, split='train', whole=whole).whole is None
  image, _, extent = load_source(name, split='train+test', whole=whole).whole_arrays()
  assert image.shape == (4, 16, 16, 3) and extent.tolist() == found.tolist()
