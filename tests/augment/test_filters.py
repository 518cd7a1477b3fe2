"""Blur, sharpness and noise against PIL, numpy and scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.filters
import skimage.util
from PIL import ImageEnhance, ImageFilter

from clr_jax.augment import filters, policies
from clr_jax.core.errors import UserError
from tests.augment._images import assert_levels, levels, run, through_pil, unit

KEY = jax.random.key(3)


def _blur(image, sigma, taps):
  """torchvision's gaussian_blur: reflected borders, normalized taps."""
  offsets = np.arange(taps) - taps // 2
  weights = np.exp(-0.5 * (offsets / sigma) ** 2)
  weights /= weights.sum()
  r = taps // 2
  h, w, _ = image.shape
  padded = np.pad(image, ((r, r), (r, r), (0, 0)), mode='reflect')
  rows = sum(weights[t] * padded[t : t + h] for t in range(taps))
  return sum(weights[t] * rows[:, t : t + w] for t in range(taps))


@pytest.mark.parametrize('taps', [1, 3, 9, 13])
def test_blur_matches_torchvision_formula(taps):
  images = unit(levels(3, 9, 7))
  sigma = np.array([0.1, 0.9, 2.0], np.float32)
  got = run(filters.gaussian_blur, images, sigma, kernel_size=taps)
  want = np.stack([_blur(im, s, taps) for im, s in zip(images, sigma, strict=True)])
  np.testing.assert_allclose(got, want, atol=2e-6)


def test_blur_matches_skimage():
  images = unit(levels(1, 24, 20))
  want = skimage.filters.gaussian(images[0], 1.5, mode='mirror', truncate=4, channel_axis=-1)
  got = run(filters.gaussian_blur, images, 1.5, kernel_size=13)[0]
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_blur_refuses_unfit_kernels():
  for taps in (4, 17):
    with pytest.raises(UserError, match='at most 15 for 8x12'):
      filters.gaussian_blur(jnp.zeros((1, 8, 12, 1)), 1.0, kernel_size=taps)


@pytest.mark.parametrize('channels', [1, 3])
def test_sharpness_matches_pil(channels):
  images = levels(4, channels=channels)
  smooth = through_pil(images, lambda im, i: im.filter(ImageFilter.SMOOTH))
  assert_levels(filters.smooth(unit(images)), smooth, off=1)
  factors = np.array([0.0, 0.5, 1.0, 1.9], np.float32)
  want = through_pil(images, lambda im, i: ImageEnhance.Sharpness(im).enhance(float(factors[i])))
  assert_levels(run(filters.adjust_sharpness, unit(images), factors), want, off=1.5)
  np.testing.assert_array_equal(run(filters.adjust_sharpness, unit(images), 1.0), unit(images))
  np.testing.assert_array_equal(filters.smooth(jnp.ones((1, 2, 2, 1))), jnp.ones((1, 2, 2, 1)))


def test_gaussian_noise_statistics_match_skimage():
  images = np.full((400, 8, 8, 3), 0.5, np.float32)
  noisy = np.asarray(filters.gaussian_noise(KEY, images, variance=9e-4, p=1.0)) - 0.5
  reference = skimage.util.random_noise(images, 'gaussian', rng=0, var=9e-4) - 0.5
  assert noisy.std() == pytest.approx(reference.std(), rel=0.02)
  assert noisy.std() == pytest.approx(0.03, rel=0.02)
  assert abs(noisy.mean()) < 5e-4
  assert abs(np.corrcoef(noisy[:200].ravel(), noisy[200:].ravel())[0, 1]) < 0.02
  same = filters.gaussian_noise(KEY, images, sigma=0.03, p=1.0)
  np.testing.assert_allclose(same, noisy + 0.5, atol=1e-6)
  changed = np.abs(np.asarray(filters.gaussian_noise(KEY, images, sigma=0.03)) - 0.5).max((1, 2, 3))
  assert (changed > 0).mean() == pytest.approx(0.5, abs=0.1)


def test_gaussian_noise_is_clipped_and_takes_one_strength():
  noisy = filters.gaussian_noise(KEY, np.ones((4, 4, 4, 1), np.float32), sigma=2.0, p=1.0)
  assert noisy.min() == 0 and noisy.max() == 1
  for both in ({}, {'sigma': 0.1, 'variance': 0.01}):
    with pytest.raises(UserError, match='exactly one'):
      filters.gaussian_noise(KEY, noisy, **both)


def test_noise_clipped_after_normalization():
  mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
  images = unit(levels(3))
  normalize = lambda x: (np.asarray(x) - np.array(mean)) / np.array(std)  # noqa: E731
  exact = {'p': 1.0, 'clip_normalized': (mean, std)}
  got = filters.gaussian_noise(KEY, images, variance=0.0, **exact)
  np.testing.assert_allclose(normalize(got), np.clip(normalize(images), -1, 1), atol=1e-5)
  assert np.abs(normalize(images)).max() > 1.5
  noisy = filters.gaussian_noise(KEY, images, sigma=0.1, **exact)
  inside = np.abs(normalize(images)) < 0.5
  assert (normalize(noisy) - normalize(images))[inside].std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.slow
def test_policies_pass_the_ratio_of_salt():
  images = np.full((20, 10, 10, 3), 0.5, np.float32)
  still = {'crop_scale': (1.0, 1.0), 'crop_ratio': (1.0, 1.0), 'jitter_p': 0.0, 'gray_p': 0.0}
  noise = {'salt_pepper': 1.0, 'salt_pepper_p': 1.0, 'salt_pepper_ratio': 1.0}
  policy = policies.make('simclr_family', size=10, flip_p=0.0, **still, **noise)
  np.testing.assert_array_equal(policy(KEY, images), np.ones_like(images))


def test_salt_and_pepper_statistics_match_skimage():
  images = np.full((200, 10, 10, 3), 0.5, np.float32)
  noisy = np.asarray(filters.salt_and_pepper(KEY, images, amount=0.2, salt_ratio=0.25, p=1.0))
  assert (noisy == noisy[..., :1]).all()  # whole pixels
  element = filters.salt_and_pepper(KEY, images, amount=0.2, salt_ratio=0.25, p=1.0, per='element')
  element = np.asarray(element)
  assert not (element == element[..., :1]).all()
  reference = skimage.util.random_noise(images, 's&p', rng=0, amount=0.2, salt_vs_pepper=0.25)
  for value in (0.0, 0.5, 1.0):
    share = (reference == value).mean()
    assert (noisy == value).mean() == pytest.approx(share, abs=0.01)
    assert (element == value).mean() == pytest.approx(share, abs=0.01)
  with pytest.raises(UserError, match='pixel'):
    filters.salt_and_pepper(KEY, images, per='row')
