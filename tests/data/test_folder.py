import numpy as np
import pytest
from PIL import Image

from clr_jax.core.errors import UserError
from clr_jax.data import load_source
from clr_jax.data.sources import folder


def write(path, *, value=0, size=(6, 6), mode='RGB'):
  """An image of one color; size is (width, height)."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, value if mode == 'L' else (value,) * 3).save(path)


@pytest.fixture
def classes(tmp_path):
  """Two classes, 3 + 2 images; the color tells the file."""
  for i, name in enumerate(
    ['bee/10.png', 'bee/9.png', 'bee/deep/x.bmp', 'ant/a.PNG', 'ant/b.webp']
  ):
    write(tmp_path / 'set' / name, value=40 * i)
  (tmp_path / 'set' / 'bee' / 'notes.txt').write_text('not an image')
  write(tmp_path / 'set' / '.hidden' / 'h.png')
  return tmp_path / 'set'


def test_class_folders_sorted_by_name_and_path(classes):
  source = load_source(f'folder:{classes}')
  assert source.class_names == ('ant', 'bee')
  assert (source.num_examples, source.image_shape, source.num_classes) == (5, (6, 6, 3), 2)
  images, labels = source.arrays()
  assert labels.tolist() == [0, 0, 1, 1, 1]
  assert images[:, 3, 3, 0].tolist() == [120, 160, 0, 40, 80]
  again, labels = load_source(f'folder:{classes}').load(np.array([3, 0]))
  np.testing.assert_array_equal(again, images[[3, 0]])
  assert labels.tolist() == [1, 0]


def test_of_many_images_of_one_size_some_headers_are_read(tmp_path, monkeypatch):
  for i in range(12):
    write(tmp_path / f'{i:02}.png', size=(5, 7) if i == 4 else (6, 6))
  with pytest.raises(UserError, match='differ in size'):
    load_source(f'folder:{tmp_path}')
  read, read_header = [], folder.images_lib.read_header
  monkeypatch.setattr(
    folder.images_lib, 'read_header', lambda *args: read.append(args) or read_header(*args)
  )
  monkeypatch.setattr(folder, 'MOST_HEADERS', 11)
  monkeypatch.setattr(folder, 'SAMPLE', 4)
  source = load_source(f'folder:{tmp_path}')
  assert len(read) == 4 and source.image_shape == (6, 6, 3)
  assert source.load(np.array([3, 5]))[0].shape == (2, 6, 6, 3)
  with pytest.raises(UserError, match=r'04.png is 5x7 and the others are 6x6: set data.image_size'):
    source.load(np.array([3, 4]))


def test_flat_folder_is_unlabeled(tmp_path):
  for i in range(3):
    write(tmp_path / f'{i}.jpeg', value=100 * i, mode='L')
  source = load_source(f'folder:{tmp_path}')
  images, labels = source.arrays()
  assert labels is None
  assert source.num_classes is None
  assert source.class_names is None
  assert images.shape == (3, 6, 6, 3)
  assert images[:, 0, 0, 2].tolist() == [0, 100, 200]


def test_mixed_sizes_need_image_size_and_get_the_central_square(tmp_path):
  picture = np.zeros((8, 24, 3), np.uint8)
  picture[:, 8:16] = 200  # the central square
  for name in ('wide', 'tall'):
    (tmp_path / name).mkdir()
  Image.fromarray(picture).save(tmp_path / 'wide' / '1.png')
  Image.fromarray(picture.transpose(1, 0, 2)).save(tmp_path / 'tall' / '1.png')
  with pytest.raises(UserError, match=r'differ in size .*set data.image_size'):
    load_source(f'folder:{tmp_path}')
  images, _ = load_source(f'folder:{tmp_path}', image_size=4).arrays()
  assert images.shape == (2, 4, 4, 3)
  assert images[:, :, 1:3, :][:, 1:3].min() == 200
  np.testing.assert_array_equal(images[0], images[1].transpose(1, 0, 2))


def test_a_large_jpeg_is_the_same_picture_after_reduced_decoding(tmp_path):
  ramp = np.tile(np.linspace(0, 255, 320).astype(np.uint8)[:, None, None], (1, 320, 3))
  Image.fromarray(ramp).save(tmp_path / 'ramp.jpg', quality=95)
  image = load_source(f'folder:{tmp_path}', image_size=20).arrays()[0][0, :, 7, 1].astype(float)
  np.testing.assert_allclose(image, ramp[8::16, 0, 0], atol=6)


def test_splits_share_the_classes_of_the_training_split(tmp_path):
  for file in ('train/a/1.png', 'train/b/1.png', 'train/c/1.png', 'val/b/7.png'):
    write(tmp_path / file)
  train, val = load_source(f'folder:{tmp_path}'), load_source(f'folder:{tmp_path}', split='val')
  assert train.arrays()[1].tolist() == [0, 1, 2]
  assert val.arrays()[1].tolist() == [1]
  assert val.num_classes == 3
  assert load_source(f'folder:{tmp_path}', split='test').checksum() == val.checksum()
  write(tmp_path / 'test' / 'c' / '1.png')
  assert load_source(f'folder:{tmp_path}', split='test').arrays()[1].tolist() == [2]
  write(tmp_path / 'test' / 'new' / '1.png')
  with pytest.raises(UserError, match=r"the class 'new' of .* does not exist in the training"):
    load_source(f'folder:{tmp_path}', split='test')
  with pytest.raises(UserError, match="no split 'dev': choose one of train, test, val"):
    load_source(f'folder:{tmp_path}', split='dev')


def test_a_class_may_be_called_train(tmp_path):
  for file in ('train/1.png', 'tram/1.png'):
    write(tmp_path / file)
  assert load_source(f'folder:{tmp_path}').class_names == ('train', 'tram')
  with pytest.raises(UserError, match=r"no split 'test'.*train\[90%:\]"):
    load_source(f'folder:{tmp_path}', split='test')


def test_slices_mix_the_classes_and_complement_each_other(tmp_path):
  for label in 'abcd':
    for i in range(25):
      write(tmp_path / label / f'{i:02d}.png', value=i + 50 * (ord(label) - ord('a')))
  pixels = lambda split, **kw: load_source(f'folder:{tmp_path}', split=split, **kw).arrays()  # noqa: E731
  small, labels = pixels('train[:20%]')
  rest, _ = pixels('train[20%:]')
  assert len(small) == 20
  assert set(labels.tolist()) == {0, 1, 2, 3}
  assert (np.diff(labels) >= 0).all()  # still sorted by path
  both = np.concatenate([small, rest])[:, 0, 0, 0]
  assert sorted(both.tolist()) == sorted(pixels('train')[0][:, 0, 0, 0].tolist())
  np.testing.assert_array_equal(pixels('train', limit=20)[0], small)


def test_a_damaged_file_is_named(classes):
  path = classes / 'bee' / '9.png'
  noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
  Image.fromarray(noise).save(path)
  path.write_bytes(path.read_bytes()[:-60])  # the header stays whole
  source = load_source(f'folder:{classes}')
  with pytest.raises(UserError, match=r'bee/9\.png'):
    source.arrays()
  path.write_text('no image at all')
  with pytest.raises(UserError, match=r'bee/9\.png'):
    load_source(f'folder:{classes}')
  source = load_source(f'folder:{classes}', image_size=4)  # reads no header
  source.load(np.array([0, 1]))
  with pytest.raises(UserError, match=r'bee/9\.png'):
    source.load(np.array([0, 3]))


def test_a_file_that_changes_between_the_listing_and_the_reading_is_named(classes):
  """Replaced by one of another size, cut, emptied, removed, or replaced by a folder."""
  path = classes / 'bee' / '9.png'
  whole = path.read_bytes()
  other = classes.parent / 'other.png'
  for size in ((1, 1), (5, 7), (12, 6)):  # the first would be repeated over the whole image
    path.write_bytes(whole)
    source = load_source(f'folder:{classes}')
    write(other, size=size)
    path.write_bytes(other.read_bytes())
    says = rf'bee/9.png is {size[0]}x{size[1]} and the others are 6x6: set data.image_size'
    with pytest.raises(UserError, match=says):
      source.arrays()
  for content in (whole[: len(whole) // 2], b''):
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'cannot read the image .*bee/9.png \(.*: repair or rem'):
      source.load(np.arange(source.num_examples))
  path.unlink()
  with pytest.raises(UserError, match=r'cannot read the image .*bee/9.png \(.*No such file'):
    source.arrays()
  path.mkdir()
  with pytest.raises(UserError, match=r'cannot read the image .*bee/9.png \(.*Is a directory'):
    source.arrays()


def test_unsuitable_folders(tmp_path, classes):
  with pytest.raises(UserError, match='no image folder'):
    load_source(f'folder:{tmp_path}/absent')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='holds no image'):
    load_source(f'folder:{tmp_path}/empty')
  write(classes / 'loose.png')
  with pytest.raises(UserError, match=r'loose images such as loose\.png'):
    load_source(f'folder:{classes}')


def test_the_checksum_sees_a_renamed_file(classes):
  before = load_source(f'folder:{classes}').checksum()
  assert load_source(f'folder:{classes}').checksum() == before
  (classes / 'bee' / '9.png').rename(classes / 'bee' / '8.png')
  assert load_source(f'folder:{classes}').checksum() != before


def test_tiny_imagenet_as_it_is_distributed(tmp_path):
  """train/CLASS/images, val/images with a list of labels, test/images without; boxes and words."""
  classes = ('n02124075', 'n01443537')
  for i, name in enumerate(classes):
    for k in range(3):
      mode = 'L' if k else 'RGB'
      write(tmp_path / f'train/{name}/images/{name}_{k}.JPEG', value=100 * i, mode=mode)
    (tmp_path / f'train/{name}/{name}_boxes.txt').write_text(f'{name}_0.JPEG\t0\t3\t5\t5\n')
  for i in range(11):
    write(tmp_path / f'val/images/val_{i}.JPEG', value=100 * (i % 2))
    write(tmp_path / f'test/images/test_{i}.JPEG')
  lines = [f'val_{i}.JPEG\t{classes[i % 2]}\t0\t32\t44\t62\n' for i in range(11)]
  (tmp_path / 'val' / 'val_annotations.txt').write_text(''.join(lines))
  (tmp_path / 'wnids.txt').write_text('\n'.join(classes))
  (tmp_path / 'words.txt').write_text('n02124075\tEgyptian cat\n')
  train = load_source(f'folder:{tmp_path}')
  assert train.class_names == ('n01443537', 'n02124075')
  assert train.arrays()[1].tolist() == [0, 0, 0, 1, 1, 1]
  for split in ('val', 'validation'):
    val = load_source(f'folder:{tmp_path}', split=split)
    assert (val.num_examples, val.num_classes) == (11, 2)
    images, labels = val.arrays()
    assert labels.tolist() == (images[:, 0, 0, 0] < 50).astype(int).tolist()  # by the color
    assert set(labels.tolist()) == {0, 1}
  assert load_source(f'folder:{tmp_path}', split='test').labels() is None
  annotations = tmp_path / 'val' / 'val_annotations.txt'
  annotations.write_text(''.join(lines).replace(classes[1], 'zz'))
  with pytest.raises(UserError, match=r"the class 'zz' of .* does not exist in the"):
    load_source(f'folder:{tmp_path}', split='val')
  annotations.write_text(lines[0])
  with pytest.raises(UserError, match=r'val_annotations\.txt has no class of the image val_1\.'):
    load_source(f'folder:{tmp_path}', split='val')
  annotations.unlink()
  with pytest.raises(UserError, match=r'have no classes: restore .*val_annotations\.txt or sort'):
    load_source(f'folder:{tmp_path}', split='val')


def test_class_folders_count_where_a_list_is_left_behind(tmp_path):
  for file in ('train/a/1.png', 'train/b/1.png', 'val/a/1.png', 'val/b/1.png'):
    write(tmp_path / file)
  (tmp_path / 'val' / 'val_annotations.txt').write_text('1.png\tb\n')
  assert load_source(f'folder:{tmp_path}', split='val').labels().tolist() == [0, 1]


def test_the_validation_split_by_its_long_name(tmp_path):
  for file in ('train/a/1.png', 'train/b/1.png', 'validation/b/1.png'):
    write(tmp_path / file)
  for split in ('validation', 'val', 'test'):
    assert load_source(f'folder:{tmp_path}', split=split).labels().tolist() == [1]
  write(tmp_path / 'val/a/1.png')
  assert load_source(f'folder:{tmp_path}', split='validation').labels().tolist() == [1]
  assert load_source(f'folder:{tmp_path}', split='val').labels().tolist() == [0]


def test_a_flat_test_folder_beside_classes_is_unlabeled(tmp_path):
  for file in ('train/a/1.png', 'train/b/1.png', 'test/1.png'):
    write(tmp_path / file)
  test = load_source(f'folder:{tmp_path}', split='test')
  assert (test.num_classes, test.class_names, test.labels()) == (None, None, None)
  assert load_source(f'folder:{tmp_path}').num_classes == 2


def test_what_imagenet_calls_jpeg(tmp_path):
  """One of its files is a PNG, some are CMYK, some gray."""
  (tmp_path / 'a').mkdir()
  red = Image.new('RGB', (9, 7), (250, 10, 10))
  for i, (mode, kind) in enumerate((('RGB', 'PNG'), ('CMYK', 'JPEG'), ('L', 'JPEG'))):
    red.convert(mode).save(tmp_path / 'a' / f'{i}.JPEG', kind)
  images, _ = load_source(f'folder:{tmp_path}', image_size=6).arrays()
  for image in images[:2]:
    np.testing.assert_allclose(image[3, 3], (250, 10, 10), atol=12)
  assert len(set(images[2, 3, 3].tolist())) == 1
