"""The pieces of the corruptions against plain loops and SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from clr_jax.evaluation.corruptions import _canny, _warp, blur, digital, weather


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.mark.parametrize('edge_twice', [True, False])
def test_displace_is_map_coordinates(rng, edge_twice):
  x = rng.random((3, 9, 11, 2))
  row, column = rng.uniform(-20, 30, (2, 3, 9, 11))
  actual = _warp.displace(x, row, column, edge_twice=edge_twice)
  mode = 'reflect' if edge_twice else 'mirror'
  for i in range(3):
    for c in range(2):
      expected = ndimage.map_coordinates(x[i, ..., c], (row[i], column[i]), order=1, mode=mode)
      np.testing.assert_allclose(actual[i, ..., c], expected, atol=1e-12)


@pytest.mark.parametrize('size', [8, 28, 33])
@pytest.mark.parametrize('factor', [1, 1.01, 1.25, 2.25, 4.5])
def test_clipped_zoom_is_scipy_zoom(rng, size, factor):
  x = rng.random((2, size, size, 1))
  inner = int(np.ceil(size / factor))
  first = (size - inner) // 2
  middle = x[:, first : first + inner, first : first + inner]
  large = ndimage.zoom(middle, (1, factor, factor, 1), order=1)
  first = (large.shape[1] - size) // 2
  expected = large[:, first : first + size, first : first + size]
  np.testing.assert_allclose(_warp.clipped_zoom(x, factor), expected, atol=1e-12)


def test_motion_follows_its_angle(rng):
  x = rng.random((3, 12, 14, 1))
  out = _warp.motion(x, 2, 1.5, np.array([0.0, 90.0, -45.0]))
  kernel = np.exp(-(np.arange(5) ** 2) / (2 * 1.5**2))
  kernel /= kernel.sum()
  for i, (down, right) in enumerate([(0, 1), (1, 0), (-0.7, 0.7)]):
    for r in range(12):
      for c in range(14):
        steps = [(round(down * k + 1e-9), round(right * k)) for k in range(5)]
        at = [x[i, np.clip(r + a, 0, 11), np.clip(c + b, 0, 13), 0] for a, b in steps]
        np.testing.assert_allclose(out[i, r, c, 0], kernel @ np.array(at), atol=1e-12)


def test_plasma_fractal_is_the_diamond_square_algorithm():
  size, decay = 8, 1.75
  (actual,) = weather.plasma_fractal([np.random.default_rng(7)], size, decay)
  draws = iter(np.random.default_rng(7).uniform(-1, 1, size * size))
  height, step, wobble = {(0, 0): 0.0}, size, 100.0
  while step > 1:
    half, corners = step // 2, range(0, size, step)
    passes = [
      ([(r + half, c + half) for r in corners for c in corners], ((1, 1), (1, -1))),
      ([(r, c + half) for r in corners for c in corners], ((1, 0), (0, 1))),
      ([(r + half, c) for r in corners for c in corners], ((1, 0), (0, 1))),
    ]
    for points, (a, b) in passes:
      for r, c in points:
        sides = [(s * half * u, s * half * v) for u, v in (a, b) for s in (1, -1)]
        around = [height[(r + u) % size, (c + v) % size] for u, v in sides]
        height[r, c] = sum(around) / 4 + wobble**2 * next(draws)
    step, wobble = half, wobble / decay
  expected = np.array([[height[r, c] for c in range(size)] for r in range(size)])
  expected = (expected - expected.min()) / (expected.max() - expected.min())
  np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_edges_are_the_rims_of_each_image_alone():
  x = np.zeros((3, 20, 20))
  x[0, 5:15, 5:15], x[2, 8:12, 3:6] = 200, 255
  found = _canny.edges(x, 50, 150)
  assert not found[1].any()
  for i, row, column in ((0, slice(4, 16), slice(4, 16)), (2, slice(7, 13), slice(2, 7))):
    near = np.zeros((20, 20), bool)
    near[row, column] = True
    assert not found[i][~near].any()
    enclosed = ndimage.binary_fill_holes(found[i]) & ~found[i]
    assert enclosed[x[i] > 0].any() and not enclosed[x[i] == 0].any()  # a closed rim around it
    np.testing.assert_array_equal(_canny.edges(x[i : i + 1], 50, 150)[0], found[i])
  faint = np.where(x[:1] > 0, 20.0, 0)  # gradients of at most 80: no strong edge to start from
  assert not _canny.edges(faint, 50, 150).any() and _canny.edges(faint, 50, 70).any()


def test_distance_is_close_to_euclidean_and_per_image(rng):
  rims = rng.random((4, 15, 17)) < 0.02
  rims[1] = False
  distance = weather._distance(rims, 20.0)
  assert (distance[1] == 20).all()
  for i in (0, 2, 3):
    exact = np.minimum(ndimage.distance_transform_edt(~rims[i]), 20)
    np.testing.assert_allclose(distance[i], exact, rtol=0.03)


def test_equalized_spreads_the_levels():
  level = np.array([[[3, 3, 5, 9]], [[7, 7, 7, 7]]])
  np.testing.assert_array_equal(weather._equalized(level), [[[0, 0, 128, 255]], [[7, 7, 7, 7]]])


def test_glass_moves_pixels_no_further_than_its_reach(rng):
  place = np.arange(16 * 16.0).reshape(1, 16, 16, 1)
  moved = blur.glass_blur(place / 255, [rng], 0.05, 1, 1)
  row, column = np.divmod(np.round(255 * moved[0, ..., 0]).astype(int), 16)
  own_row, own_column = np.mgrid[:16, :16]
  assert np.abs(row - own_row).max() == 1 and np.abs(column - own_column).max() == 1


def test_elastic_transform_of_nothing_is_the_image(rng):
  x = rng.random((2, 10, 12, 3))
  np.testing.assert_allclose(digital.elastic_transform(x, [rng, rng], 0, 0, 0), x, atol=1e-12)
  moved = digital.elastic_transform(x, [rng, rng], 0, 0, 0.1)
  assert np.abs(moved - x).mean() > 0.01


def test_snow_and_spatter_treat_gray_as_equal_channels():
  gray = np.full((1, 16, 16, 1), 0.4)
  rows = [('snow', (0.1, 0.2, 1, 0.5, 10, 4, 0.9)), ('spatter', (0.65, 0.3, 1, 0.69, 0.5, False))]
  rows.append(('spatter', (0.65, 0.1, 0.7, 0.69, 0.6, True)))
  for name, arguments in rows:
    apply = getattr(weather, name)
    one, three = (
      apply(np.repeat(gray, channels, -1), [np.random.default_rng(1)], *arguments)
      for channels in (1, 3)
    )
    np.testing.assert_allclose(one, (three * weather.LUMA).sum(-1, keepdims=True), atol=1e-12)
