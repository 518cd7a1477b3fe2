"""Crops of whole images of several sizes, against PIL on each image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from clr_jax.augment import Views, canvas, policies
from clr_jax.augment import random_ops as ops
from clr_jax.augment.canvas import Canvas
from clr_jax.core.errors import UserError
from tests import expected
from tests.augment._images import assert_levels, run, unit

METHODS = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}
SIDE = 48
EXTENTS = np.array(expected.RECTANGLES, np.int32)
ARRAYS = expected.load('rectangles')


def images(extents=EXTENTS, side=SIDE, beyond=255, channels=3):
  """(list of images with edges, canvases of them); `beyond` fills what is no image."""
  rng = np.random.default_rng(1)
  pixels = np.full((len(extents), side, side, channels), beyond, np.uint8)
  single = []
  for i, (height, width) in enumerate(extents):
    y, x = np.mgrid[:height, :width, :1][:2]
    wave = (
      128 + 150 * np.sin(x / 5 + i) * np.cos(y / 7) + rng.normal(0, 12, (height, width, channels))
    )
    single.append(np.clip(wave, 0, 255).astype(np.uint8))
    pixels[i, :height, :width] = single[-1]
  return single, Canvas(pixels, extents)


def through_pil(single, op):
  """op(PIL image, i) of images of any size, float in [0, 1]."""
  return unit(np.stack([np.asarray(op(Image.fromarray(x), i)) for i, x in enumerate(single)]))


def _assert_equals_pil(got, want, *, differing):
  """To one level; at most a share `differing` of the values is not the same to the bit."""
  levels = np.abs(np.asarray(got) - want) * 255
  assert levels.max() < 1.01
  assert np.mean(levels > 0.01) <= differing


# Bilinear crops are in another order than PIL's for high boxes, and bicubic weights in float32.
DIFFERING = {'bilinear': 0.2, 'bicubic': 5e-3}


def boxes(seed=0):
  """A box in each image of EXTENTS."""
  rng = np.random.default_rng(seed)
  found = []
  for height, width in EXTENTS:
    w, h = rng.integers(1, width + 1), rng.integers(1, height + 1)
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    found.append([left, top, left + w, top + h])
  return np.array(found)


@pytest.mark.parametrize(
  ('method', 'size'),
  [('bilinear', 14), *(pytest.param(m, (11, 27), marks=pytest.mark.slow) for m in METHODS)],
)
def test_crop_resize_equals_pil(method, size):
  single, given = images()
  height, width = (size, size) if isinstance(size, int) else size
  for box in (boxes(), np.asarray(canvas.whole(given))):
    got = run(canvas.crop_resize, given, box, size=size, method=method)
    want = through_pil(
      single,
      lambda im, i: im.crop(tuple(box[i])).resize((width, height), METHODS[method]),  # noqa: B023
    )
    _assert_equals_pil(got, want, differing=DIFFERING[method])


@pytest.mark.slow
@pytest.mark.parametrize('form', ['tpu', 'cuda'])
@pytest.mark.parametrize('method', ['bicubic', pytest.param('bilinear', marks=pytest.mark.weekly)])
def test_forms_of_accelerators_equal_pil(form, method, monkeypatch):
  monkeypatch.setattr(canvas, 'FORMS', {'default': canvas.FORMS[form]})
  single, given = images()
  box = boxes(seed=2)
  got = run(canvas.crop_resize, given, box, size=(11, 27), method=method)
  want = through_pil(single, lambda im, i: im.crop(tuple(box[i])).resize((27, 11), METHODS[method]))
  _assert_equals_pil(got, want, differing=DIFFERING[method])


def rectangles():
  """The images of `tests.expected.RECTANGLES` on canvases, white beyond them."""
  pixels = np.full((len(EXTENTS), SIDE, SIDE, 3), 255, np.uint8)
  for i, (height, width) in enumerate(EXTENTS):
    pixels[i, :height, :width] = expected.images((height, width, 3), seed=i)
  return Canvas(pixels, EXTENTS)


@pytest.mark.slow
@pytest.mark.parametrize('method', ['bilinear', pytest.param('bicubic', marks=pytest.mark.weekly)])
@pytest.mark.parametrize('name', ['down', 'up', 'squash', 'center'])
def test_equals_torchvision_on_pil_images(name, method):
  given, want = rectangles(), unit(ARRAYS[f'{name}_{method}'])
  if name == 'center':
    got = run(canvas.center, given, shorter=20, size=17, method=method)
  elif name == 'squash':
    got = run(canvas.resize, given, size=20, method=method)
  else:
    got = run(canvas.crop_resize, given, ARRAYS['box'], size=tuple(want.shape[1:3]), method=method)
  exact = name == 'center' and method == 'bilinear'
  _assert_equals_pil(got, want, differing=0 if exact else DIFFERING[method])


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['constant', 'reflect'])
def test_pad_crop_equals_numpy(mode):
  single, given = images()
  top, left = np.arange(10) % 5, np.arange(10) % 4
  pad = ((4, 4), (4, 4), (0, 0))
  want = [
    np.pad(x, pad, mode=mode)[t : t + 12, m : m + 12]
    for x, t, m in zip(single, top, left, strict=True)
  ]
  got = run(canvas.pad_crop, given, top, left, size=12, padding=4, mode=mode)
  np.testing.assert_allclose(got, unit(np.stack(want)), rtol=0, atol=1e-6)
  with pytest.raises(UserError, match='padding mode'):
    canvas.pad_crop(given, top, left, size=12, padding=4, mode='edge')  # type: ignore


@pytest.mark.slow
def test_nothing_beyond_an_image_enters_a_view():
  key = jax.random.key(3)
  family = policies.simclr_family(size=12, method='bicubic', blur_p=0.5)
  views = Views((family, policies.crop_flip(size=12)), (policies.weak(size=5),))
  made = [run(views, key, *images(beyond=beyond)[1]) for beyond in (0, 255)]
  jax.tree.map(np.testing.assert_array_equal, *made)
  assert made[0]['global'].shape == (10, 2, 12, 12, 3) and made[0]['local'].shape[2] == 5


@pytest.mark.slow
def test_random_crops_stay_in_the_image_and_pad_small_ones():
  pixels = np.full((len(EXTENTS), SIDE, SIDE, 1), 255, np.uint8)
  for x, (height, width) in zip(pixels, EXTENTS, strict=True):
    x[:height, :width] = 51
  given, key = Canvas(pixels, EXTENTS), jax.random.key(0)
  got = run(ops.random_crop, key, given, size=9, padding=0)
  np.testing.assert_allclose(got, 0.2, rtol=1e-6)
  shown = np.asarray(run(ops.random_crop, key, given, size=20, padding=0))[..., 0] > 0
  np.testing.assert_array_equal(shown.any(2).sum(1), np.minimum(EXTENTS[:, 0], 20))
  np.testing.assert_array_equal(shown.any(1).sum(1), np.minimum(EXTENTS[:, 1], 20))


@pytest.mark.slow
def test_boxes_are_those_of_the_views():
  single, given = images()
  key = jax.random.key(5)
  crop = policies.simclr_family(size=10, flip_p=0, jitter_p=0, gray_p=0)
  views = Views((crop, policies.none(size=10)), (crop,))
  found = views.boxes(key, *given)
  assert found['global'][1] is None
  made = run(views, key, *given)
  for entry in ('global', 'local'):
    box = np.asarray(found[entry][0])
    want = through_pil(
      single,
      lambda im, i: im.crop(tuple(box[i])).resize((10, 10), METHODS['bilinear']),  # noqa: B023
    )
    assert_levels(made[entry][:, 0], want)


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'scale'), expected.DRAWN.items())
def test_boxes_are_distributed_as_torchvisions(size, scale):
  want = ARRAYS['drawn_{}_{}'.format(*size)].T.astype(int)
  n = want.shape[1]
  given = Canvas(np.zeros((n, 1, 1, 1), np.uint8), np.tile(np.array([size], np.int32), (n, 1)))
  x, y, right, bottom = np.asarray(run(ops.crop_box, jax.random.key(0), given, scale=scale)).T
  got = (y, x, bottom - y, right - x)
  for one, other in zip(_quantities(*got), _quantities(*want), strict=True):
    assert _ks(one, other) < 1.95 * np.sqrt(2 / n)  # 0.1 % of equal distributions exceed that


def _quantities(top, left, height, width):
  """Each side and corner of boxes, and functions of several of them."""
  return top, left, height, width, height * width, width / height, 2 * top + height, left - width


def test_central_box_where_none_fits():
  given = Canvas(np.zeros((1, 1, 1, 1), np.uint8), np.array([[90, 30]], np.int32))
  box = run(ops.crop_box, jax.random.key(0), given, scale=(0.9, 1.0), ratio=(0.75, 1.0))
  np.testing.assert_array_equal(box, [[0, 25, 30, 65]])


def _ks(a, b):
  """Kolmogorov and Smirnov's distance of two samples."""
  at = np.union1d(a, b)
  share = lambda x: np.searchsorted(np.sort(x), at, side='right') / len(x)  # noqa: E731
  return np.abs(share(a) - share(b)).max()


@pytest.mark.weekly
def test_boxes_of_one_size_are_those_of_arrays():
  key = jax.random.key(1)
  extent = jnp.full((64, 2), 32, jnp.int32)
  want = ops.sample_crop_box(key, 64, 32, 32)
  np.testing.assert_array_equal(ops.crop_box(key, Canvas(jnp.zeros((64, 1, 1, 1)), extent)), want)
