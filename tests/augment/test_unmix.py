"""Image mixtures: which pixels come from whom, and that the share says so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.augment import unmix

HEIGHT, WIDTH = 6, 9
IMAGES = np.random.default_rng(0).uniform(size=[5, HEIGHT, WIDTH, 2]).astype(np.float32)


def drawn(region, lam, center=(0, 0)):
  return unmix.Draw(jnp.asarray(region), jnp.float32(lam), jnp.asarray(center, jnp.int32))


def test_whole_images():
  mixture = unmix.mix(jnp.asarray(IMAGES), drawn(False, 0.3))
  np.testing.assert_allclose(mixture.images, 0.3 * IMAGES + 0.7 * IMAGES[::-1], rtol=1e-6)
  np.testing.assert_allclose(mixture.images[2], IMAGES[2], rtol=1e-6)  # its own partner
  assert mixture.lam == jnp.float32(0.3)


@pytest.mark.parametrize('lam', [0.0, 0.2, 0.55, 0.9, 1.0])
@pytest.mark.parametrize('center', [(0, 0), (2, 4), (5, 8), (3, 0)])
def test_regions(lam, center):
  box, left_over = unmix.cut_box(jnp.float32(lam), center, height=HEIGHT, width=WIDTH)
  half = [int(n * np.sqrt(1 - np.float32(lam))) // 2 for n in (HEIGHT, WIDTH)]
  expected = np.array(IMAGES)
  count = 0
  for i in range(HEIGHT):
    for j in range(WIDTH):
      if all(c - h <= x < c + h for c, h, x in zip(center, half, (i, j), strict=True)):
        expected[:, i, j] = IMAGES[::-1, i, j]
        count += 1
  mixture = unmix.mix(jnp.asarray(IMAGES), drawn(True, lam, center))
  np.testing.assert_array_equal(mixture.images, expected)
  np.testing.assert_allclose(mixture.lam, 1 - count / (HEIGHT * WIDTH), rtol=1e-6)
  assert mixture.lam == left_over
  top, left, bottom, right = box
  assert 0 <= top <= bottom <= HEIGHT and 0 <= left <= right <= WIDTH
  assert (bottom - top) * (right - left) == count and (lam < 1 or count == 0)


def test_draws():
  keys = jax.random.split(jax.random.key(0), 2000)

  @jax.jit
  def many(probability):
    draw = functools.partial(unmix.draw, height=HEIGHT, width=WIDTH, probability=probability)
    return jax.vmap(draw)(keys)

  some = jax.device_get(many(0.25))
  assert abs(some.region.mean() - 0.75) < 0.05
  assert abs(some.lam.mean() - 0.5) < 0.03 and abs(some.lam.var() - 1 / 12) < 0.01
  assert abs(np.corrcoef(some.lam, some.region)[0, 1]) < 0.1
  for axis, size in enumerate((HEIGHT, WIDTH)):
    counts = np.bincount(some.center[:, axis], minlength=size)
    assert len(counts) == size and counts.min() > 2000 / size * 0.75
  assert many(0.0).region.all() and not many(1.0).region.any()


def test_draws_are_the_same_in_float64(x64):
  draw = functools.partial(unmix.draw, jax.random.key(3), height=4, width=4, probability=0.5)
  wide = draw()
  with jax.enable_x64(False):
    narrow = draw()
  assert wide.lam.dtype == narrow.lam.dtype == jnp.float32
  jax.tree.map(np.testing.assert_array_equal, wide, narrow)
