"""Corruptions as users call them: agreement with references, severities, determinism, checks."""

import io

import numpy as np
import pytest
import skimage
from PIL import Image
from scipy import ndimage, signal

from clr_jax.core.errors import UserError
from clr_jax.evaluation import corruptions
from clr_jax.evaluation.corruptions import NAMES, SEVERITIES, _apply, _tables, corrupt, names_for

RANDOM = {'gaussian_noise', 'shot_noise', 'impulse_noise', 'speckle_noise', 'glass_blur', 'fog'}
RANDOM |= {'motion_blur', 'snow', 'spatter', 'elastic_transform'}


def smooth_images(n, height, width, channels, seed=0):
  x = np.random.default_rng(seed).normal(size=(n, height, width, channels))
  x = ndimage.gaussian_filter(x, (0, 1.5, 1.5, 0))
  x = (x - x.min()) / (x.max() - x.min())
  return np.round(255 * x).astype(np.uint8)


def reference_hsv(change):
  def apply(image, *constants):
    hsv = skimage.color.rgb2hsv(image / 255)
    change(hsv, *constants)
    return skimage.color.hsv2rgb(hsv)

  return apply


def reference_brightness(hsv, shift):
  hsv[..., 2] = np.clip(hsv[..., 2] + shift, 0, 1)


def reference_saturate(hsv, factor, shift):
  hsv[..., 1] = np.clip(hsv[..., 1] * factor + shift, 0, 1)


def reference_contrast(image, factor):
  x = image / 255
  mean = x.mean((0, 1))
  return factor * x + (1 - factor) * mean


def reference_jpeg(image, quality):
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', quality=quality)
  return np.asarray(Image.open(file)) / 255


def reference_pixelate(image, factor):
  side = len(image)
  small = Image.fromarray(image).resize((int(factor * side),) * 2, Image.Resampling.BOX)
  return np.asarray(small.resize((side, side), Image.Resampling.BOX)) / 255


def reference_gaussian(image, sigma):
  return skimage.filters.gaussian(image / 255, sigma=sigma, channel_axis=-1)


def reference_defocus(image, radius, softness):
  row, column = np.mgrid[-15:16, -15:16]
  disk = 1.0 * (row**2 + column**2 <= radius**2)
  bell = np.exp(-(row**2 + column**2) / (2 * softness**2)) * (np.maximum(abs(row), abs(column)) < 2)
  kernel = signal.convolve2d(disk / disk.sum(), bell / bell.sum(), 'same')
  padded = np.pad(image / 255, ((15, 15), (15, 15), (0, 0)), 'reflect')
  planes = [signal.convolve2d(plane, kernel, 'valid') for plane in np.moveaxis(padded, -1, 0)]
  return np.stack(planes, -1)


def reference_zoom(image, factors):
  x, side = image / 255, len(image)
  total = x.copy()
  for factor in factors:
    inner = int(np.ceil(side / factor))
    first = (side - inner) // 2
    middle = x[first : first + inner, first : first + inner]
    large = ndimage.zoom(middle, (factor, factor, 1), order=1)
    first = (len(large) - side) // 2
    total += large[first : first + side, first : first + side]
  return total / (1 + len(factors))


# Parameters in the code of CIFAR-10-C (32x32) and ImageNet-C (from 64x64), severities 1 and 5.
REFERENCES = [
  ('contrast', reference_contrast, {32: [(0.75,), (0.15,)], 64: [(0.4,), (0.05,)]}),
  (
    'brightness',
    reference_hsv(reference_brightness),
    {32: [(0.05,), (0.3,)], 64: [(0.1,), (0.5,)]},
  ),
  (
    'saturate',
    reference_hsv(reference_saturate),
    {32: [(0.3, 0), (2.5, 0.2)], 64: [(0.3, 0), (20, 0.2)]},
  ),
  ('pixelate', reference_pixelate, {32: [(0.95,), (0.65,)], 64: [(0.6,), (0.25,)]}),
  ('jpeg_compression', reference_jpeg, {32: [(80,), (40,)], 64: [(25,), (7,)]}),
  ('gaussian_blur', reference_gaussian, {32: [(0.4,), (1,)], 64: [(1,), (6,)]}),
  ('defocus_blur', reference_defocus, {32: [(0.3, 0.4), (1.5, 0.1)], 64: [(3, 0.1), None]}),
  (
    'zoom_blur',
    reference_zoom,
    {
      32: [(np.arange(1, 1.06, 0.01),), (np.arange(1, 1.26, 0.01),)],
      64: [(np.arange(1, 1.11, 0.01),), (np.arange(1, 1.31, 0.03),)],
    },
  ),
]


@pytest.mark.parametrize('side', [32, 64])
@pytest.mark.parametrize(('name', 'reference', 'table'), REFERENCES, ids=[r[0] for r in REFERENCES])
def test_agrees_with_a_reference(name, reference, table, side):
  images = smooth_images(2, side, side, 3)
  images[0, :4, :4], images[0, 4:8, :4] = 0, 90  # black and gray have no hue
  for severity, arguments in zip((1, 5), table[side], strict=True):
    if arguments is None:
      continue
    expected = np.stack([reference(image, *arguments) for image in images])
    expected = np.floor(255 * np.clip(expected, 0, 1) + 1e-6)
    actual = corrupt(name, images, severity=severity, seed=0)
    assert (actual == expected).mean() > 0.999, severity  # but for values cut off at a whole one
    assert np.abs(actual - expected).max() <= 1, severity


AMOUNTS = np.array([0.01, 0.02, 0.03, 0.05, 0.07])  # of impulse noise
NOISES = [  # mean and standard deviation per severity for images of the one value 0.4
  ('gaussian_noise', 0 * AMOUNTS, [0.04, 0.06, 0.08, 0.09, 0.10]),
  ('speckle_noise', 0 * AMOUNTS, 0.4 * np.array([0.06, 0.1, 0.12, 0.16, 0.2])),
  ('shot_noise', 0 * AMOUNTS, np.sqrt(0.4 / np.array([500, 250, 100, 75, 50]))),
  ('impulse_noise', 0.1 * AMOUNTS, np.sqrt(AMOUNTS * (0.6**2 + 0.4**2) / 2)),
]


@pytest.mark.parametrize(('name', 'means', 'spreads'), NOISES, ids=[n[0] for n in NOISES])
def test_noise_has_the_mean_and_spread_of_its_severity(name, means, spreads):
  images = np.full((40, 32, 32, 3), 102, np.uint8)
  for severity, mean, spread in zip(SEVERITIES, means, spreads, strict=True):
    noise = (corrupt(name, images, severity=severity, seed=1) - 102.0) / 255
    assert -0.5 / 255 < noise.mean() - mean + 0.25 / 255 < 0.5 / 255  # cut off: between 0 and 1/255
    np.testing.assert_allclose(noise.std(), spread, rtol=0.05)


@pytest.mark.parametrize('name', NAMES)
def test_severity_increases_the_distortion(name):
  images = smooth_images(60, 32, 32, 3)
  size = [
    np.abs(corrupt(name, images, severity=s, seed=0).astype(int) - images).mean()
    for s in SEVERITIES
  ]
  assert min(size) > 0
  steps = np.diff(size)
  # Where the source's severities are no single scale: see _tables.
  apart = {'saturate': (0, 2, 3), 'spatter': (0, 1, 3), 'elastic_transform': (), 'glass_blur': (2,)}
  assert (steps[list(apart.get(name, range(4)))] >= 0).all(), size


@pytest.mark.parametrize('name', NAMES)
def test_an_image_does_not_depend_on_its_batch(name, monkeypatch):
  images = smooth_images(7, 16, 18, 3)
  images[3] = 0  # nothing to see: the edge cases of weather and contrast
  whole = {s: corrupt(name, images, severity=s, seed=5) for s in (2, 5)}
  order = np.array([4, 0, 6, 3, 1, 5, 2])
  for severity, expected in whole.items():
    turned = corrupt(name, images[order], severity=severity, seed=5, indices=order)
    np.testing.assert_array_equal(turned, expected[order])
    monkeypatch.setattr(_apply, '_CHUNK', 2 * images[0].size)
    np.testing.assert_array_equal(corrupt(name, images, severity=severity, seed=5), expected)
    monkeypatch.undo()


@pytest.mark.parametrize('name', sorted(RANDOM))
def test_randomness_is_of_seed_and_index(name):
  images = np.repeat(smooth_images(1, 16, 16, 3), 2, axis=0)
  first = corrupt(name, images, severity=3, seed=0)
  assert (first[0] != first[1]).any(), 'two places, one corruption'
  assert (corrupt(name, images, severity=3, seed=1) != first).any()
  again = corrupt(name, images[:1], severity=3, seed=0, indices=np.array([1]))
  np.testing.assert_array_equal(again[0], first[1])


@pytest.mark.parametrize('name', sorted(set(NAMES) - RANDOM))
def test_the_rest_is_not_random(name):
  images = smooth_images(2, 16, 16, 3)
  a, b = (corrupt(name, images, severity=3, seed=seed) for seed in (0, 1))
  np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('shape', [(8, 8, 1), (9, 12, 3), (28, 28, 1), (66, 64, 3)])
def test_sizes_and_channels(shape):
  images = np.stack([np.full(shape, 0), np.full(shape, 255), smooth_images(1, *shape)[0]])
  images = images.astype(np.uint8)
  before = images.copy()
  for name in names_for(shape[-1]):
    for severity in SEVERITIES:
      changed = corrupt(name, images, severity=severity, seed=0)
      assert changed.shape == images.shape and changed.dtype == np.uint8
    assert (changed[2] != images[2]).any(), name  # weak ones may round to nothing on few pixels
  np.testing.assert_array_equal(images, before)
  assert corrupt('fog', images[:0], severity=1, seed=0).shape == (0, *shape)


def test_names():
  assert len(NAMES) == 18 and names_for(3) == corruptions.NAMES
  assert set(names_for(3)) - set(names_for(1)) == {'saturate'}
  assert set(_tables.CIFAR) == set(_tables.IMAGENET) == set(NAMES)
  rows = [*_tables.CIFAR.values(), *_tables.IMAGENET.values()]
  assert all(len(row) == len(SEVERITIES) for row in rows)


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    ({'name': 'frost'}, "no corruption 'frost'"),
    ({'severity': 0}, 'severity 0'),
    ({'severity': 6}, 'severity 6'),
    ({'severity': 2.5}, 'severity 2.5'),
    ({'seed': -1}, 'seed'),
    ({'images': np.zeros((2, 16, 16, 3), np.float32)}, 'uint8'),
    ({'images': np.zeros((16, 16, 3), np.uint8)}, 'uint8 images'),
    ({'images': np.zeros((2, 7, 16, 3), np.uint8)}, '8x8'),
    ({'images': np.zeros((2, 16, 16, 2), np.uint8)}, '1 or 3 channels'),
    ({'name': 'saturate', 'images': np.zeros((2, 16, 16, 1), np.uint8)}, 'colors'),
    ({'indices': np.arange(3)}, '2 images'),
    ({'indices': np.array([0, -1])}, 'indices of 0 or more'),
  ],
)
def test_bad_input_is_one_sentence(change, sentence):
  good = {'name': 'fog', 'images': np.zeros((2, 16, 16, 3), np.uint8), 'severity': 1, 'seed': 0}
  with pytest.raises(UserError, match=sentence):
    corrupt(**(good | change))
