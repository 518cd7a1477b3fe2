"""The random operations: distributions of their draws, order of the jitter, determinism."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.augment import color, geometry
from clr_jax.augment import random_ops as ops
from tests.augment._images import levels, run, unit

KEY = jax.random.key(7)


def _reference_boxes(count, height, width, scale, ratio):
  """torchvision's RandomResizedCrop.get_params, restated."""
  rng = np.random.default_rng(0)
  boxes = []
  for _ in range(count):
    for _ in range(10):
      area = height * width * rng.uniform(*scale)
      aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
      w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
      if 0 < w <= width and 0 < h <= height:
        left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
        break
    else:
      w, h = width, height
      if width / height < ratio[0]:
        h = round(width / ratio[0])
      elif width / height > ratio[1]:
        w = round(height * ratio[1])
      left, top = (width - w) // 2, (height - h) // 2
    boxes.append((left, top, left + w, top + h))
  return np.array(boxes)


@pytest.mark.parametrize(
  'height, width, scale', [(32, 32, (0.08, 1.0)), (24, 40, (0.5, 0.9)), (64, 64, (0.05, 0.14))]
)
def test_crop_boxes_are_distributed_as_torchvisions(height, width, scale):
  ratio = (3 / 4, 4 / 3)
  got = np.asarray(
    run(ops.sample_crop_box, KEY, batch=4000, height=height, width=width, scale=scale, ratio=ratio)
  )
  want = _reference_boxes(4000, height, width, scale, ratio)
  assert got.dtype == np.int32
  assert (got[:, :2] >= 0).all() and (got[:, 2:] <= [width, height]).all()
  assert (got[:, 2:] > got[:, :2]).all()
  statistics = lambda b: [  # noqa: E731
    b[:, 2] - b[:, 0],
    b[:, 3] - b[:, 1],
    (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) / height / width,
    np.log((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1])),
    b[:, 0],
    b[:, 1],
  ]
  for ours, theirs in zip(statistics(got), statistics(want), strict=True):
    spread = theirs.std()
    assert abs(ours.mean() - theirs.mean()) < 0.08 * spread
    assert ours.std() == pytest.approx(spread, rel=0.06)
    quantiles = [0.05, 0.25, 0.75, 0.95]
    difference = np.quantile(ours, quantiles) - np.quantile(theirs, quantiles)
    assert np.abs(difference).max() <= max(0.12 * spread, 1.0 if ours.dtype.kind == 'i' else 0)


def test_crop_boxes_fall_back_to_the_center():
  tall = run(ops.sample_crop_box, KEY, batch=3, height=40, width=8, scale=(0.9, 1.0))
  np.testing.assert_array_equal(tall, [[0, 14, 8, 25]] * 3)  # height 8 / (3/4) = 10.7 -> 11
  wide = run(ops.sample_crop_box, KEY, batch=3, height=8, width=40, scale=(0.9, 1.0))
  np.testing.assert_array_equal(wide, [[14, 0, 25, 8]] * 3)
  square = run(ops.sample_crop_box, KEY, batch=3, height=9, width=9, scale=(2.0, 3.0))
  np.testing.assert_array_equal(square, [[0, 0, 9, 9]] * 3)


@pytest.mark.slow
def test_random_resized_crop_cuts_the_drawn_boxes():
  images = unit(levels(4, 20, 14))
  got = run(ops.random_resized_crop, KEY, images, size=8, scale=(0.2, 0.6), method='bicubic')
  box = run(ops.sample_crop_box, KEY, batch=4, height=20, width=14, scale=(0.2, 0.6))
  np.testing.assert_array_equal(got, geometry.crop_resize(images, box, size=8, method='bicubic'))


def test_random_crop_reaches_every_offset_equally():
  ramp = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1).repeat(2000, 0) + 1
  got = np.asarray(run(ops.random_crop, KEY, ramp, size=6, padding=1))
  # The center pixel [3, 3] = 22 in place; offsets shift it by up to one pixel each way.
  values, counts = np.unique(got[:, 3, 3, 0], return_counts=True)
  np.testing.assert_array_equal(values, [15, 16, 17, 21, 22, 23, 27, 28, 29])
  assert (np.abs(counts / 2000 - 1 / 9) < 0.03).all()
  assert (got == 0).any()
  assert (np.asarray(run(ops.random_crop, KEY, ramp, size=6, padding=1, mode='reflect')) > 0).all()


@pytest.mark.slow
def test_each_operation_is_applied_with_its_probability():
  p = 0.3
  images = jnp.asarray(np.tile(unit(levels(1, 8, 6)), (600, 1, 1, 1)))
  cases = {
    'flip': run(ops.random_flip, KEY, images, p=p),
    'gray': run(ops.random_grayscale, KEY, images, p=p),
    'solarize': run(ops.random_solarize, KEY, images, p=p),
    'blur': run(ops.random_blur, KEY, images, sigma=(1.0, 2.0), kernel_size=3, p=p),
    'jitter': run(ops.color_jitter, KEY, images, p=p),
    'affine': run(ops.random_affine, KEY, images, degrees=20.0, p=p),
  }
  for name, got in cases.items():
    changed = np.abs(got - images).max((1, 2, 3)) > 1e-6
    assert changed.mean() == pytest.approx(p, abs=0.07), name
    np.testing.assert_array_equal(got[~changed], images[~changed])
  for p, want in ((0.0, images), (1.0, images[:, :, ::-1])):
    np.testing.assert_array_equal(run(ops.random_flip, KEY, images, p=p), want)


@pytest.mark.parametrize('planes', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_jitter_in_any_order_is_the_operations_in_that_order(planes, monkeypatch):
  """In the form of CPUs, and in that of accelerators."""
  if planes:
    monkeypatch.setattr(jax.lax, 'platform_dependent', lambda images, cpu, default: default(images))
  orders = np.array(list(itertools.permutations(range(4))), np.int32)
  images = np.tile(unit(levels(1, 6, 5)), (24, 1, 1, 1))
  rng = np.random.default_rng(1)
  factors = rng.uniform(0.4, 1.8, (3, 24)).astype(np.float32)
  shift = rng.uniform(-0.3, 0.3, 24).astype(np.float32)
  chosen = np.ones(len(images), bool)
  got = run(
    *(ops.jitter_in_order, images, factors, shift, orders.T, chosen),
    blends=[0, 1, 2],
    with_hue=True,
  )
  enhance = [color.adjust_brightness, color.adjust_contrast, color.adjust_saturation]
  results = []
  for i, order in enumerate(orders):
    image = images[i : i + 1]
    for op in order:
      image = color.adjust_hue(image, shift[i]) if op == 3 else enhance[op](image, factors[op, i])
    results.append(image[0])
  np.testing.assert_allclose(got, np.stack(results), atol=2e-5)
  assert len(np.unique(np.round(np.stack(results), 4), axis=0)) > 12  # the order matters


def test_jitter_factors_have_torchvisions_ranges():
  gray = jnp.full((3000, 1, 1, 1), 0.3)
  bright = run(ops.color_jitter, KEY, gray, brightness=0.4, contrast=0, saturation=0, hue=0, p=1.0)
  factor = np.asarray(bright)[:, 0, 0, 0] / 0.3
  assert factor.min() > 0.599 and factor.max() < 1.401
  assert factor.mean() == pytest.approx(1, abs=0.02)
  assert factor.std() == pytest.approx(0.8 / math.sqrt(12), rel=0.05)
  strong = run(ops.color_jitter, KEY, gray, brightness=1.5, contrast=0, saturation=0, hue=0, p=1.0)
  factor = np.asarray(strong)[:, 0, 0, 0] / 0.3
  assert factor.min() >= 0 and factor.mean() == pytest.approx(1.25, abs=0.05)  # U(0, 2.5)
  red = jnp.broadcast_to(jnp.array([1.0, 0.0, 0.0]), (3000, 1, 1, 3))
  turned = run(ops.color_jitter, KEY, red, brightness=0, contrast=0, saturation=0, hue=0.1, p=1.0)
  turned = np.asarray(turned)[:, 0, 0]
  assert (turned[:, 0] > 0.999).all()
  shift = np.where(turned[:, 1] > 0, turned[:, 1], -turned[:, 2]) / 6
  assert shift.min() > -0.1001 and shift.max() < 0.1001
  assert shift.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.05)


def test_each_image_is_jittered_by_itself():
  images = jnp.asarray(np.tile(unit(levels(1, 4, 4)), (500, 1, 1, 1)))
  got = np.asarray(run(ops.color_jitter, KEY, images, p=1.0))
  assert len(np.unique(np.round(got.reshape(500, -1), 5), axis=0)) == 500


def test_jitter_draws_every_order_equally_often(monkeypatch):
  drawn = []
  spy = lambda images, factors, shift, order, *_, **__: drawn.append(order) or images  # noqa: E731
  monkeypatch.setattr(ops, 'jitter_in_order', spy)
  ops.color_jitter(KEY, jnp.zeros((4800, 1, 1, 3)))
  orders, counts = np.unique(np.asarray(drawn[0]), axis=1, return_counts=True)
  assert orders.shape == (4, 24)
  assert np.abs(counts - 200).max() < 60


def test_one_channel_images_work_and_skip_color():
  images = jnp.asarray(unit(levels(6, 8, 8, 1)))
  np.testing.assert_array_equal(run(ops.random_grayscale, KEY, images, p=1.0), images)
  unchanged = run(
    ops.color_jitter, KEY, images, brightness=0, contrast=0, saturation=1.0, hue=0.5, p=1.0
  )
  np.testing.assert_array_equal(unchanged, images)
  assert np.abs(run(ops.color_jitter, KEY, images, p=1.0) - images).max() > 0.01


def test_default_blur_kernel_is_a_tenth_of_the_side():
  images = jnp.zeros((1, 40, 40, 1)).at[0, 20, 20].set(1.0)
  reach = np.asarray(run(ops.random_blur, KEY, images, sigma=(5.0, 5.0), p=1.0))[0, :, 20, 0] > 0
  assert reach.sum() == 5


def test_random_affine_ranges():
  dot = jnp.zeros((400, 21, 21, 1)).at[:, 10, 10].set(1.0)
  moved = np.asarray(run(ops.random_affine, KEY, dot, translate=(0.2, 0.1)))[..., 0]
  mass = moved.sum((1, 2))
  x = (moved * np.arange(21)).sum((1, 2)) / mass - 10
  y = (moved * np.arange(21)[:, None]).sum((1, 2)) / mass - 10
  assert 3.9 < np.abs(x).max() < 4.21 and 1.9 < np.abs(y).max() < 2.11
  assert abs(np.corrcoef(x, y)[0, 1]) < 0.15


def test_jigsaw_patches_come_from_every_cell_once_in_a_uniform_order():
  # A pixel's value names its cell: 3x3 cells of 5x4 pixels and a rest that no patch touches.
  cells = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((5, 4)))
  image = np.pad(cells, ((0, 1), (0, 2)))[None, :, :, None]
  images = jnp.asarray(np.broadcast_to(image, (600, *image.shape[1:])), jnp.float32)
  patches = np.asarray(run(ops.random_jigsaw, KEY, images, size=3))
  assert patches.shape == (600, 9, 3, 3, 1)
  names = patches[:, :, 0, 0, 0]
  np.testing.assert_array_equal(
    patches, np.broadcast_to(names[..., None, None, None], patches.shape)
  )
  np.testing.assert_array_equal(np.sort(names, 1), np.broadcast_to(np.arange(1, 10), (600, 9)))
  for place in range(9):  # each cell comes to each place equally often: 67 +- 8
    counts = np.bincount(names[:, place].astype(int), minlength=10)[1:]
    assert counts.min() > 67 - 5 * 8 and counts.max() < 67 + 5 * 8


@pytest.mark.slow
def test_jigsaw_windows_take_all_positions_and_differ_between_patches():
  height, width = 12, 9  # 3x3 cells of 4x3 pixels
  rows, columns = np.mgrid[:height, :width]
  image = (rows * width + columns)[None, :, :, None].astype(np.float32)
  images = jnp.asarray(np.broadcast_to(image, (300, *image.shape[1:])))
  corner = np.asarray(run(ops.random_jigsaw, KEY, images, size=2))[:, :, 0, 0, 0]
  top, left = corner // width, corner % width
  assert set(np.unique(top % 4)) == {0, 1, 2} and set(np.unique(left % 3)) == {0, 1}
  assert len({tuple(np.sort(row)) for row in corner}) > 290


@pytest.mark.slow
@pytest.mark.parametrize('ratio', [(1e-3, 1e-3), (1e3, 1e3)])
def test_a_box_of_an_extreme_ratio_has_a_pixel(ratio):
  left, top, right, bottom = ops.sample_crop_box(jax.random.key(0), 4, 8, 8, ratio=ratio).T
  assert (right > left).all() and (bottom > top).all()
