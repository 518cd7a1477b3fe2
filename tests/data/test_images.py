"""Encoded images of every kind: what is converted, what is refused by its name, before any work."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from clr_jax.core.errors import UserError
from clr_jax.data import images, load_source
from clr_jax.data.images import decode, fit_arrays, read_header

LEVELS = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)


def encoded(image, kind='png', **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def shown(image, kind='png', channels=3, size=None, **options):
  return decode(encoded(image, kind, **options), channels, size, 'it', as_shown=True)


@pytest.mark.parametrize('kind', ['png', 'tiff'])
@pytest.mark.parametrize('channels', [1, 3])
def test_gray_of_16_bits_is_scaled(kind, channels):
  found = shown(Image.fromarray(LEVELS), kind, channels)
  expected = np.round(LEVELS / 257).astype(np.uint8)
  np.testing.assert_array_equal(found, np.repeat(expected[..., None], channels, 2))


def test_32_bits_are_scaled_as_16_or_refused():
  within = Image.fromarray(LEVELS.astype(np.int32))
  np.testing.assert_array_equal(shown(within, 'tiff', 1)[..., 0], np.round(LEVELS / 257))
  for values in (LEVELS.astype(np.int32) * 2, LEVELS.astype(np.int32) - 1):
    with pytest.raises(UserError, match=r'the image it has values from .* beyond 16 bits'):
      shown(Image.fromarray(values), 'tiff')


def test_floats_are_refused_by_name(tmp_path):
  path = tmp_path / 'a' / 'f.tif'
  path.parent.mkdir()
  Image.fromarray(np.ones((4, 4), np.float32)).save(path)
  for options in ({}, {'image_size': 8}):
    with pytest.raises(UserError, match=r'a/f\.tif has pixels of floats, .*: convert it to RGB'):
      load_source(f'folder:{tmp_path}', **options)


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'PA'])
@pytest.mark.parametrize('channels', [1, 3])
def test_transparency_is_laid_on_white(mode, channels):
  image = Image.new('RGBA', (3, 2), (0, 0, 0, 0))
  image.paste((90, 90, 90, 255), (0, 0, 1, 2))
  if mode == 'P':
    image = Image.new('P', (3, 2), 1)
    image.putpalette([90, 90, 90, 0, 0, 0])
    image.paste(0, (0, 0, 1, 2))
    found = shown(image, channels=channels, transparency=1)
  elif mode == 'PA':
    found = np.asarray(images._convert(image.convert('LA'), 'RGB', 'it', True))[..., :channels]
  else:
    found = shown(image.convert(mode), channels=channels)
  assert found[:, 0].min() == found[:, 0].max() == 90
  assert found[:, 1:].min() == 255


def test_opaque_images_keep_their_pixels():
  pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
  opaque = Image.fromarray(pixels).convert('RGBA')
  np.testing.assert_array_equal(shown(opaque), pixels)
  np.testing.assert_array_equal(decode(encoded(opaque), 3, None, 'it'), pixels)  # as TFDS has it


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['png', 'tiff', 'jpeg', 'webp'])
def test_the_orientation_is_applied(tmp_path, kind, orientation):
  upright = np.zeros((8, 24, 3), np.uint8)
  upright[:, :8] = 200  # bright at the left, and at the top left
  upright[:4, :4] = 100
  # The inverse of what the orientation asks for.
  turn = {2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE'}
  turn |= {6: 'ROTATE_90', 7: 'TRANSVERSE', 8: 'ROTATE_270'}
  stored = Image.fromarray(upright)
  if orientation > 1:
    stored = stored.transpose(Image.Transpose[turn[orientation]])
  exif = Image.Exif()
  exif[0x0112] = orientation
  options = {'jpeg': {'quality': 95}, 'webp': {'lossless': True}}.get(kind, {})
  path = tmp_path / f'x.{kind}'
  path.write_bytes(encoded(stored, kind, exif=exif, **options))
  np.testing.assert_allclose(
    decode(str(path), 3, None, 'it', as_shown=True).astype(int), upright, atol=12
  )
  header = read_header(str(path))
  assert header.size == (8, 24)
  assert (images.ROTATED in header.facts) == (orientation > 1)


def test_a_file_that_cannot_be_opened_is_named_once():
  said = r'^cannot read the image /missing.png \(No such file or directory\): repair or remove it'
  with pytest.raises(images.DamagedImage, match=said):
    images.largest_value('/missing.png')


def test_damaged_exif_data_do_not_hide_an_image():
  damaged = b'Exif\0\0MM\0*\0\0\0\x08\xff\xff'
  file = encoded(Image.new('RGB', (4, 4), (9, 9, 9)), 'jpeg', exif=damaged)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # PIL's own word about it
    assert decode(file, 3, None, 'it', as_shown=True).shape == (4, 4, 3)


@pytest.mark.parametrize(
  ('width', 'height', 'size', 'words'),
  [
    (30000, 1, 224, 'has 30000x1 pixels, 6720000x224 when its shorter side is resized to'),
    (1, 30000, 8, 'has 1x30000 pixels, 8x240000 when'),
    (3, 301, 8, '3x301'),
    (90, 1, 9000, '810000x9000 when'),
  ],
)
def test_extreme_shapes_are_refused_before_they_are_decoded(
  tmp_path, monkeypatch, width, height, size, words
):
  path = tmp_path / 'it.png'
  Image.new('1', (width, height)).save(path)
  monkeypatch.setattr(Image.Image, 'resize', None)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # PIL's own word about large images
    for call in (lambda: read_header(str(path), size), lambda: decode(path, 3, size, str(path))):
      with pytest.raises(UserError, match=words):
        call()


def test_images_of_too_many_pixels_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(images, '_MOST_PIXELS', 10**6)
  Image.new('1', (1001, 1000)).save(tmp_path / '1.png')
  for options in ({}, {'image_size': 8}):
    with pytest.raises(
      UserError, match=r'1\.png has 1001x1000 pixels, more than 1 million: shrink'
    ):
      load_source(f'folder:{tmp_path}', **options)
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)  # twice that is an error of PIL
  with pytest.raises(UserError, match=r'the image .*/1\.png is too large .*: shrink or remove it'):
    load_source(f'folder:{tmp_path}')


def test_shapes_that_are_only_unusual():
  read = decode(encoded(Image.new('L', (300, 3))), 1, 8, 'it')
  assert read.shape == (8, 8, 1)
  assert decode(encoded(Image.new('L', (30000, 1))), 1, None, 'it').shape == (1, 30000, 1)
  with pytest.raises(UserError, match='the image of x has 30000x1 pixels'):
    fit_arrays(np.zeros((2, 1, 30000, 1), np.uint8), 8, where='of x')


def test_a_folder_says_once_what_is_done(tmp_path):
  (tmp_path / 'a').mkdir()
  Image.fromarray(LEVELS).save(tmp_path / 'a' / '1.tif')
  Image.new('RGBA', (64, 64)).save(tmp_path / 'a' / '2.png')
  Image.new('RGB', (64, 64)).save(tmp_path / 'a' / '3.pgm')
  first, *more = [Image.new('L', (64, 64))] * 3
  first.save(tmp_path / 'a' / '4.tiff', save_all=True, append_images=more)
  for options in ({}, {'image_size': 16}):
    notes = load_source(f'folder:{tmp_path}', **options).notes
    deep = f'{images.SIXTEEN_BITS} (the largest value found is 65,520 of 65,535)'
    for fact in (deep, images.TRANSPARENT, images.PAGES):
      assert notes.count(fact) == 1
    assert images.ROTATED not in notes
