"""Crops, resizing and warps against PIL and numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from clr_jax.augment import geometry
from clr_jax.core.errors import UserError
from tests.augment._images import assert_levels, levels, pil, run, through_pil, unit

METHODS = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('size', [5, 16, 31])
def test_crop_resize_matches_pil(method, size):
  images = levels(5, 20, 14)
  images[4] = np.where(images[4] > 128, 255, 0)  # hard edges: bicubic overshoots
  box = np.array([[0, 0, 14, 20], [3, 5, 11, 18], [2, 0, 5, 20], [13, 19, 14, 20], [1, 2, 9, 9]])

  def crop(image, i):  # width first: Pillow 13 takes the cheaper order, which only clipping shows
    cut = image.crop(tuple(box[i]))
    return cut.resize((size, cut.height), METHODS[method]).resize((size, size), METHODS[method])

  want = through_pil(images, crop)
  got = run(geometry.crop_resize, unit(images), box, size=size, method=method)
  assert got.shape == (5, size, size, 3)
  assert got.min() >= 0 and got.max() <= 1
  assert_levels(got, want, off=1.25)  # PIL rounds twice


@pytest.mark.parametrize('method', METHODS)
def test_fractional_box_matches_pil_away_from_its_border(method):
  images = levels(1, 40, 40)
  box = (4.3, 6.8, 30.1, 35.6)
  want = np.asarray(pil(images[0]).resize((24, 24), METHODS[method], box=box))
  got = run(geometry.crop_resize, unit(images), np.array([box]), size=24, method=method)
  assert_levels(got[0, 3:-3, 3:-3], unit(want)[3:-3, 3:-3], off=1)


def test_resize_matches_pil_and_keeps_the_right_size():
  images = levels(2, 8, 8, 1)
  want = through_pil(images, lambda im, i: im.resize((16, 16), Image.Resampling.BILINEAR))
  assert_levels(geometry.resize(unit(images), 16), want, off=1)
  np.testing.assert_array_equal(geometry.resize(unit(images), 8), unit(images))


def test_whole_box_is_the_identity():
  images = unit(levels(2, 12, 12))
  box = np.array([[0, 0, 12, 12]] * 2)
  for method in METHODS:
    got = run(geometry.crop_resize, images, box, size=12, method=method)
    np.testing.assert_allclose(got, images, atol=1e-6)


def test_crop_resize_in_float64(x64):
  images = levels(2, 9, 7).astype(np.float64) / 255
  box = jnp.array([[1, 1, 6, 8]] * 2)
  got = run(geometry.crop_resize, jnp.asarray(images), box, size=5)
  assert got.dtype == jnp.float64
  single = run(geometry.crop_resize, jnp.asarray(images, jnp.float32), box, size=5)
  assert single.dtype == jnp.float32
  np.testing.assert_allclose(got, single, atol=1e-6)


def test_flip_and_pad_crop():
  images = unit(levels(3, 8, 6))
  mask = np.array([True, False, True])
  flipped = geometry.flip(images, mask)
  np.testing.assert_array_equal(flipped[0], images[0][:, ::-1])
  np.testing.assert_array_equal(flipped[1], images[1])
  top, left = np.array([0, 2, 5]), np.array([1, 4, 0])
  for mode in ('constant', 'reflect'):
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode)
    want = np.stack([p[t : t + 6, l : l + 6] for p, t, l in zip(padded, top, left, strict=True)])
    got = geometry.pad_crop(images, top, left, size=6, padding=2, mode=mode)
    np.testing.assert_array_equal(got, want)


def _torchvision_matrix(center, angle, translate, scale, shear):
  """Inverse affine matrix, formula of torchvision's documentation restated with 3x3 products."""
  rot, sx, sy = (math.radians(v) for v in (angle, *shear))
  shift = lambda x, y: np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])  # noqa: E731
  turn = np.array(
    [
      [math.cos(rot - sy) / math.cos(sy), 0, 0],
      [math.sin(rot - sy) / math.cos(sy), 0, 0],
      [0, 0, 1],
    ]
  )
  turn[0, 1] = -turn[0, 0] * math.tan(sx) - math.sin(rot)
  turn[1, 1] = -turn[1, 0] * math.tan(sx) + math.cos(rot)
  turn[:2, :2] *= scale
  forward = shift(*translate) @ shift(*center) @ turn @ shift(-center[0], -center[1])
  return np.linalg.inv(forward)[:2].ravel()


CASES = [
  {'rotation': 25.0},
  {'translate': (3.0, -2.0)},
  {'scale': 1.4},
  {'shear': (12.0, 0.0)},
  {'shear': (5.0, -9.0), 'rotation': -40.0, 'translate': (1.5, 2.25), 'scale': 0.8},
]


@pytest.mark.parametrize('method', ['nearest', 'bilinear'])
@pytest.mark.parametrize('case', CASES)
def test_affine_matches_pil(method, case):
  images = levels(1, 30, 26)
  full = {'rotation': 0.0, 'translate': (0.0, 0.0), 'scale': 1.0, 'shear': (0.0, 0.0), **case}
  matrix = _torchvision_matrix((13, 15), *full.values())
  resample = {'nearest': Image.Resampling.NEAREST, 'bilinear': Image.Resampling.BILINEAR}[method]
  pil_image = pil(images[0]).transform(
    (26, 30), Image.Transform.AFFINE, tuple(matrix), resample, fillcolor=(128,) * 3
  )
  want = unit(np.asarray(pil_image))
  got = np.asarray(run(geometry.affine, unit(images), method=method, fill=128 / 255, **case)[0])
  wrong = np.abs(got - want).max(-1) > 1.01 / 255
  # PIL's nearest uses fixed-point coordinates: ties may fall to the other side.
  assert wrong.mean() < (0.01 if method == 'nearest' else 0.003)


def test_affine_takes_a_parameter_per_image():
  images = unit(levels(3, 9, 9))
  angles = np.array([0.0, 90.0, 180.0])
  got = np.asarray(run(geometry.affine, images, rotation=angles, method='nearest'))
  np.testing.assert_array_equal(got[0], images[0])
  np.testing.assert_array_equal(got[1], np.rot90(images[1], -1))  # clockwise
  np.testing.assert_array_equal(got[2], np.rot90(images[2], 2))
  np.testing.assert_allclose(run(geometry.affine, images), images, atol=1e-6)


def test_bad_arguments_are_user_errors():
  images = jnp.zeros((1, 8, 8, 3))
  box = jnp.array([[0, 0, 8, 8]])
  with pytest.raises(UserError, match='bilinear, bicubic'):
    geometry.crop_resize(images, box, size=4, method='lanczos')
  with pytest.raises(UserError, match='nearest, bilinear'):
    geometry.affine(images, method='bicubic')
  zero = jnp.zeros((1,), int)
  with pytest.raises(UserError, match='crop of 32'):
    geometry.pad_crop(images, zero, zero, size=32, padding=4)
  with pytest.raises(UserError, match='constant, reflect'):
    geometry.pad_crop(images, zero, zero, size=8, padding=4, mode='edge')


def test_gradients_flow_through_crop_and_warp():
  images = jnp.asarray(unit(levels(1, 6, 6)))
  grad = run(jax.grad(lambda x: geometry.affine(x, rotation=20.0).sum()), images)
  assert np.isfinite(grad).all() and np.abs(grad).max() > 0
