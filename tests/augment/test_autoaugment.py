"""AutoAugment and RandAugment: each operation against PIL, the tables, the sampling."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from clr_jax.augment import autoaugment as aa
from clr_jax.core.errors import UserError
from tests.augment._images import levels, run, through_pil, unit

KEY = jax.random.key(11)
COS, SIN = math.cos(math.radians(17)), math.sin(math.radians(17))


def _pil_operation(name, magnitude):
  """Applies torchvision's AutoAugment to a PIL image."""
  affine = lambda *m: lambda im: im.transform(im.size, Image.Transform.AFFINE, m)  # noqa: E731
  enhance = lambda kind: lambda im: kind(im).enhance(1 + magnitude)  # noqa: E731
  return {
    'identity': lambda im: im,
    'shear_x': affine(1, magnitude, 0, 0, 1, 0),
    'shear_y': affine(1, 0, 0, magnitude, 1, 0),
    'translate_x': affine(1, 0, -magnitude, 0, 1, 0),
    'translate_y': affine(1, 0, 0, 0, 1, -magnitude),
    'rotate': lambda im: im.rotate(magnitude),
    'brightness': enhance(ImageEnhance.Brightness),
    'color': enhance(ImageEnhance.Color),
    'contrast': enhance(ImageEnhance.Contrast),
    'sharpness': enhance(ImageEnhance.Sharpness),
    'posterize': lambda im: ImageOps.posterize(im, int(magnitude)),
    'solarize': lambda im: ImageOps.solarize(im, magnitude * 255),
    'autocontrast': ImageOps.autocontrast,
    'equalize': ImageOps.equalize,
    'invert': ImageOps.invert,
  }[name]


@pytest.mark.parametrize('channels', [1, 3])
def test_a_batch_with_all_operations_matches_pil(channels):
  magnitude = {
    'shear_x': [0.3, -0.23],  # slopes without ties between pixels
    'shear_y': [0.23, -0.3],
    'translate_x': [4, -6],
    'translate_y': [5, -3],
    'rotate': [17, -30],
    'brightness': [0.5, -0.9],
    'color': [0.9, -0.5],
    'contrast': [0.6, -0.7],
    'sharpness': [0.9, -0.8],
    'posterize': [4, 6],
    'solarize': [127.5 / 255, 40.5 / 255],
  }
  cases = [(name, m) for name in aa.OPERATIONS for m in magnitude.get(name, [0.0])]
  images = levels(len(cases), 20, 14, channels) // 2 + 40  # room for autocontrast
  want = through_pil(images, lambda im, i: _pil_operation(*cases[i])(im))
  got = run(
    aa.apply_operations,
    unit(images),
    jnp.array([aa.OPERATIONS.index(name) for name, _ in cases]),
    jnp.array([m for _, m in cases], jnp.float32),
  )
  for i, (name, m) in enumerate(cases):
    wrong = np.abs(got[i] - want[i]) > 1.51 / 255  # PIL truncates and rounds the mean
    # Fixed-point ties of PIL's nearest warp.
    assert wrong.mean() <= (0.02 if name in ('rotate', 'shear_x', 'shear_y') else 0), (name, m)
    if name != 'identity' and not (channels == 1 and name == 'color'):
      assert np.abs(got[i] - unit(images)[i]).max() > 0.01, name


def test_kinds_left_out_change_nothing_else():
  images = unit(levels(3, 8, 8))
  operation = jnp.array([aa.OPERATIONS.index(n) for n in ('rotate', 'invert', 'identity')])
  magnitude = jnp.array([20.0, 0.0, 0.0])
  few = run(aa.apply_operations, images, operation, magnitude, kinds=('invert', 'rotate'))
  np.testing.assert_array_equal(few, run(aa.apply_operations, images, operation, magnitude))


def test_magnitudes():
  table = dict(zip(aa.OPERATIONS, aa.magnitude_table(10, 32, 64), strict=True))
  np.testing.assert_allclose(table['shear_y'][[0, 3, 9]], [0, 0.1, 0.3], rtol=1e-6)
  np.testing.assert_array_equal(table['translate_x'][[0, 5, 9]], [0, 16, 29])  # 150 / 331 * 64
  np.testing.assert_array_equal(table['translate_y'][[3, 9]], [4, 14])
  np.testing.assert_allclose(table['rotate'][[2, 9]], [30 * 2 / 9, 30], rtol=1e-6)
  np.testing.assert_allclose(table['color'][[0, 9]], [0, 0.9], rtol=1e-6)
  np.testing.assert_array_equal(table['posterize'], [8, 8, 7, 7, 6, 6, 5, 5, 4, 4])
  level = np.arange(256, dtype=np.float32) / 255
  for b, threshold in enumerate(np.linspace(255, 0, 10, dtype=np.float32)):
    np.testing.assert_array_equal(level >= table['solarize'][b], np.arange(256) >= threshold)


def test_policy_tables():
  """Check sums and rows of the tables in arXiv:1805.09501 (appendix), 25 x 2 each."""
  rows = {
    'cifar10': {0: 'invert .1 0 contrast .2 6', 9: 'contrast .6 7 sharpness .6 5'},
    'imagenet': {0: 'posterize .4 8 rotate .6 9', 14: 'color .6 4 contrast 1 8'},
  }
  for name, expected in rows.items():
    ops, probabilities, bins = aa.POLICIES[name]
    assert ops.shape == probabilities.shape == bins.shape == (25, 2)
    for i, text in expected.items():
      words = text.split()
      assert [aa.OPERATIONS[o] for o in ops[i]] == words[::3]
      np.testing.assert_allclose(probabilities[i], [float(words[1]), float(words[4])])
      np.testing.assert_array_equal(bins[i], [int(words[2]), int(words[5])])
  names = lambda policy: [aa.OPERATIONS[o] for o in aa.POLICIES[policy][0].ravel()]  # noqa: E731
  assert names('cifar10').count('equalize') == 9
  assert names('cifar10').count('autocontrast') == 7
  assert 'shear_x' not in names('cifar10')
  assert names('imagenet').count('equalize') == 17
  assert math.isclose(aa.POLICIES['cifar10'][1].sum(), 26.5, abs_tol=1e-4)
  assert aa.POLICIES['cifar10'][2].sum() == 187
  assert aa.POLICIES['imagenet'][2].sum() == 159
  assert math.isclose(aa.POLICIES['imagenet'][1].sum(), 31.0, abs_tol=1e-4)


def test_ranges_of_tcl():
  """Row 1 of the code is Rotate .7 in bin 2 and TranslateX .3 in bin 9."""
  low, high = aa.ranges_of_tcl(32, 64)
  found = np.stack([low, high], -1)
  np.testing.assert_allclose(found[1, 0], [-18, -12], rtol=1e-6)
  # The code's image moves to the left, by 80 to 100 % of 150/331 of its width.
  np.testing.assert_allclose(found[1, 1], np.array([-64, -51.2]) * 150 / 331, rtol=1e-6)
  np.testing.assert_allclose(found[3, 0], [0.18, 0.24], rtol=1e-5)  # ShearY in bin 8
  np.testing.assert_allclose(found[18, 1], np.array([0.8, 0.9]) * 256 / 255, rtol=1e-6)
  np.testing.assert_allclose(found[5, 1], [6.8, 7.2], rtol=1e-6)
  np.testing.assert_allclose(found[6, 0], np.array([0.64, 0.82]) - 1, rtol=1e-6)  # Color in bin 3


@pytest.mark.parametrize(
  ('operation', 'magnitude', 'matrix', 'shift'),
  [
    # Transforms of (row, column), as in the code: ShearY, Rotate and TranslateX.
    ('shear_x', 0.23, [[1, 0], [0.23, 1]], 0),
    ('rotate', 17.0, [[COS, SIN], [-SIN, COS]], 0),
    ('translate_x', -3.0, [[1, 0], [0, 1]], 3),
  ],
)
def test_warps_of_tcl_are_those_of_scipy(operation, magnitude, matrix, shift):
  image = unit(levels(1, 20, 20))
  matrix, center = np.array(matrix), np.array([9.5, 9.5])
  offset = center - matrix @ center + [0, shift]
  want = np.stack(
    [ndimage.affine_transform(image[0, ..., c], matrix, offset, order=0) for c in range(3)], -1
  )
  number = jnp.array([aa.OPERATIONS.index(operation)])
  got = run(aa.apply_operations, image, number, jnp.array([magnitude]), centered=True)[0]
  wrong = np.abs(got - want)[4:-4, 4:-4].max(-1) > 1e-6  # beside them scipy's outside is wider
  assert wrong.mean() < 0.02  # ties of the nearest pixel


def test_sub_policies_are_drawn_with_their_probabilities():
  images = jnp.asarray(np.tile(unit(levels(1, 8, 8)), (2000, 1, 1, 1)))
  got = np.asarray(run(aa.auto_augment, KEY, images))
  assert got.min() >= 0 and got.max() <= 1
  unchanged = (np.abs(got - np.asarray(images)).max((1, 2, 3)) == 0).mean()
  # Images for which neither step draws anything stay (others may: magnitude 0, equalize twice...).
  probabilities = aa.POLICIES['cifar10'][1]
  assert unchanged >= (1 - probabilities).prod(1).mean() - 0.03
  assert unchanged < 0.45
  assert len(np.unique(got.reshape(2000, -1), axis=0)) > 60


@pytest.mark.slow
def test_rand_augment_is_stronger_with_magnitude_and_count():
  images = jnp.asarray(np.tile(unit(levels(1, 12, 12)), (60, 1, 1, 1)))
  distance = lambda **kw: float(  # noqa: E731
    jnp.abs(run(aa.rand_augment, KEY, images, **kw) - images).mean()
  )
  assert distance(num_ops=1, magnitude=3) < distance(num_ops=1, magnitude=30)
  assert distance(num_ops=1, magnitude=3) < distance(num_ops=2, magnitude=3)
  assert distance(num_ops=0) == 0


def test_fill_and_errors():
  images = jnp.ones((64, 9, 9, 3))
  half = np.asarray(run(aa.rand_augment, KEY, images, num_ops=1, magnitude=30, fill=0.5))
  assert np.isclose(half, 0.5).any()
  with pytest.raises(UserError, match='cifar10, imagenet'):
    aa.auto_augment(KEY, images, policy='svhn')
  with pytest.raises(UserError, match=r'0 \.\. 30'):
    aa.rand_augment(KEY, images, magnitude=31)
