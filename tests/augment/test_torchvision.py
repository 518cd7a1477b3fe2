"""Image operations against torchvision's, by arrays that tests/expected/make.py made."""

import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import augment
from tests import expected

ARRAYS = expected.load('transforms')
IMAGE = jnp.asarray(ARRAYS['image'], jnp.float32)[None] / 255
BOX = jnp.array([[5.0, 3.0, 19.0, 14.0]])  # left, top, right, bottom
ON_8_BITS = {
  'brightness': lambda x: augment.adjust_brightness(x, 1.3),
  'contrast': lambda x: augment.adjust_contrast(x, 0.6),
  'saturation': lambda x: augment.adjust_saturation(x, 1.7),
  'hue': lambda x: augment.adjust_hue(x, 0.1),
  'sharpness': lambda x: augment.adjust_sharpness(x, 1.8),
  'autocontrast': augment.autocontrast,
  'equalize': augment.equalize,
  'posterize': lambda x: augment.posterize(x, 3),
  'solarize': lambda x: augment.solarize(x, 128 / 255),
  'grayscale': augment.grayscale,
  'crop_down': lambda x: augment.crop_resize(x, BOX, size=7),
  'crop_up': lambda x: augment.crop_resize(x, BOX, size=32),
  'crop_bicubic': lambda x: augment.crop_resize(x, BOX, size=20, method='bicubic'),
}
# PIL truncates to 8 bits after every step, and its hue has 256 values.
LEVELS = dict.fromkeys(('contrast', 'saturation', 'sharpness', 'crop_bicubic'), 1.3) | {'hue': 4.5}


@pytest.mark.slow
@pytest.mark.parametrize('name', ON_8_BITS)
def test_equals_torchvision_on_pil_images(name):
  actual = np.asarray(ON_8_BITS[name](IMAGE))[0] * 255
  np.testing.assert_allclose(actual, ARRAYS[name], rtol=0, atol=LEVELS.get(name, 1.01))
  assert np.abs(actual - ARRAYS[name]).mean() < 0.6


@pytest.mark.slow
@pytest.mark.parametrize(('taps', 'sigma'), [(3, 0.7), (9, 1.9)])
def test_blur_equals_torchvision(taps, sigma):
  actual = augment.gaussian_blur(IMAGE, sigma, kernel_size=taps)
  np.testing.assert_allclose(actual[0], ARRAYS[f'blur_{taps}'], rtol=0, atol=1e-5)
