"""The pixel-value operations against PIL, colorsys and dm_pix."""

import colorsys

import dm_pix
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ImageEnhance, ImageOps

from clr_jax.augment import color
from tests.augment._images import assert_levels, levels, run, through_pil, unit

FACTORS = np.array([0.0, 0.4, 1.0, 1.7], np.float32)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize(
  'ours, reference',
  [
    (color.adjust_brightness, ImageEnhance.Brightness),
    (color.adjust_contrast, ImageEnhance.Contrast),
    (color.adjust_saturation, ImageEnhance.Color),
  ],
)
def test_enhance_matches_pil(ours, reference, channels):
  images = levels(channels=channels)
  want = through_pil(images, lambda im, i: reference(im).enhance(float(FACTORS[i])))
  assert_levels(run(ours, unit(images), FACTORS), want, off=1.5)  # PIL also rounds the mean


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', ['autocontrast', 'equalize', 'invert'])
def test_operations_without_parameter_match_pil(name, channels):
  images = levels(channels=channels)
  images[1] = images[1] // 4 + 60  # low contrast
  images[2] = 77  # constant
  images[3, ..., 0] = 0
  images[3, 0, 0, 0] = 9  # two levels
  want = through_pil(images, lambda im, i: getattr(ImageOps, name)(im))
  assert_levels(
    run(getattr(color, name), unit(images)), want, off=0 if name != 'autocontrast' else 1
  )


def test_equalize_of_larger_images_matches_pil():
  images = levels(2, 60, 50)
  want = through_pil(images, lambda im, i: ImageOps.equalize(im))
  assert_levels(run(color.equalize, unit(images)), want, off=0)
  assert np.abs(want - unit(images)).max() > 0.05


def test_solarize_and_posterize_match_pil_and_pix():
  images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(4, 0)
  thresholds = np.array([0, 128, 200, 255])
  want = through_pil(images, lambda im, i: ImageOps.solarize(im, int(thresholds[i])))
  assert_levels(color.solarize(unit(images), unit(thresholds)), want, off=0)
  half = color.solarize(unit(images), 0.5)
  assert_levels(half, through_pil(images, lambda im, i: ImageOps.solarize(im)), off=0)
  np.testing.assert_array_equal(half[0], dm_pix.solarize(unit(images)[0], 0.5))
  bits = np.array([1, 3, 4, 8])
  want = through_pil(images, lambda im, i: ImageOps.posterize(im, int(bits[i])))
  assert_levels(color.posterize(unit(images), bits), want, off=0)


def test_hue_matches_colorsys_and_pix():
  images = unit(levels(3, 6, 5))
  images[0, 0, 0] = 0.3  # gray
  images[0, 0, 1] = [1, 1, 0]
  shift = np.array([-0.4, 0.1, 0.5], np.float32)
  got = np.asarray(run(color.adjust_hue, images, shift))
  for i in range(3):
    want = np.empty_like(images[i])
    for index in np.ndindex(6, 5):
      h, s, v = colorsys.rgb_to_hsv(*images[i][index].tolist())
      want[index] = colorsys.hsv_to_rgb((h + shift[i]) % 1, s, v)
    np.testing.assert_allclose(got[i], want, atol=2e-6)
  pix = dm_pix.adjust_hue(jnp.asarray(images[1]), 0.1)
  np.testing.assert_allclose(got[1], pix, atol=1e-5)


def test_gray_and_contrast_match_pix():
  images = unit(levels())
  pix = dm_pix.rgb_to_grayscale(jnp.asarray(images), keep_dims=True)
  np.testing.assert_allclose(color.grayscale(images), pix, atol=2e-4)  # it uses 0.2989
  gray = images[..., :1]
  want = jnp.clip(dm_pix.adjust_contrast(jnp.asarray(gray[0]), 1.4), 0, 1)
  np.testing.assert_allclose(color.adjust_contrast(gray, 1.4)[0], want, atol=1e-6)


def test_neutral_parameters_are_the_exact_identity():
  images = unit(levels())
  for op in (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation):
    np.testing.assert_array_equal(op(images, 1.0), images)
  np.testing.assert_allclose(run(color.adjust_hue, images, 0.0), images, atol=1e-6)
  np.testing.assert_allclose(run(color.adjust_hue, images, 1.0), images, atol=1e-6)
  np.testing.assert_allclose(color.posterize(images, 8), images, atol=1e-6)
  np.testing.assert_array_equal(color.solarize(images, 1.1), images)


def test_one_channel_has_no_color():
  images = unit(levels(channels=1))
  np.testing.assert_array_equal(color.adjust_saturation(images, 0.3), images)
  np.testing.assert_array_equal(run(color.adjust_hue, images, 0.3), images)
  np.testing.assert_array_equal(color.grayscale(images), images)


def test_gray_has_equal_channels():
  gray = np.asarray(color.grayscale(unit(levels())))
  assert gray.shape == (4, 20, 14, 3)
  np.testing.assert_array_equal(gray, gray[..., :1].repeat(3, -1))
