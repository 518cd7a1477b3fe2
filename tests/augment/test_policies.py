"""Contract of every policy and preset, and what the factories pass on."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.augment import geometry, policies, presets, random_ops
from clr_jax.core.errors import UserError
from tests.augment._images import levels, run, unit

KEY = jax.random.key(5)
# The factories with code of their own; the other names are `simclr_family` with other numbers.
DISTINCT = [n for n in policies.names() if inspect.isfunction(policies.factory(n))]
EXTRA = {
  'simclr_family': {'rand_ops': 1, 'solarize_p': 0.5, 'noise_sigma': 0.1, 'salt_pepper': 0.1},
  'sogclr': {'blur_p': 0.5, 'noise_variance': 9e-4},
  'autoaugment': {'policy': 'imagenet'},
}


def _contract(name, channels):
  images = jnp.asarray(unit(levels(5, 14, 11, channels)))  # not the size of the result
  policy = jax.jit(policies.make(name, size=16, **EXTRA.get(name, {})))
  got = np.asarray(policy(KEY, images))
  assert got.shape == (5, 16, 16, channels) and got.dtype == np.float32
  assert np.isfinite(got).all() and got.min() >= 0 and got.max() <= 1
  np.testing.assert_array_equal(got, policy(KEY, images))
  # An image's result depends neither on the other images nor on their number.
  others = images.at[1:].set(1 - images[1:])
  np.testing.assert_array_equal(got[0], policy(KEY, others)[0])
  if name != 'none':
    assert np.abs(got - np.asarray(policy(jax.random.key(6), images))).max() > 0.01
    same = np.asarray(policy(KEY, jnp.broadcast_to(images[:1], images.shape)))
    assert np.abs(same - same[:1]).max((1, 2, 3))[1:].max() > 0.01  # each draws for itself


@pytest.mark.parametrize('channels', [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize('name', DISTINCT)
def test_contract(name, channels):
  _contract(name, channels)


@pytest.mark.parametrize(
  'channels', [pytest.param(1, marks=pytest.mark.weekly), pytest.param(3, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize('name', [n for n in policies.names() if n not in DISTINCT])
def test_contract_of_presets(name, channels):
  _contract(name, channels)


def test_presets_are_the_published_numbers():
  default = lambda name: {  # noqa: E731
    k: p.default for k, p in inspect.signature(policies.factory(name)).parameters.items()
  }
  moco, byol = (0.4, 0.4, 0.4, 0.1), (0.4, 0.4, 0.2, 0.1)
  full = (0.8, 0.8, 0.8, 0.2)
  rows = {  # crop scale, jitter, its strength and p, gray p, blur p, method
    'simclr': ((0.08, 1.0), full, 0.5, 0.8, 0.2, 0.0, 'bicubic'),
    'sogclr': ((0.08, 1.0), byol, 1.0, 0.8, 0.2, 0.0, 'bilinear'),
    'supcon': ((0.2, 1.0), moco, 1.0, 0.8, 0.2, 0.0, 'bilinear'),
    'strong': ((0.2, 1.0), moco, 1.0, 0.8, 0.2, 0.5, 'bilinear'),
    'infomin': ((0.2, 1.0), full, 1.0, 0.8, 0.2, 0.5, 'bilinear'),
    'weak': ((0.2, 1.0), moco, 1.0, 0.0, 0.0, 0.0, 'bilinear'),
    'rrc_flip': ((0.08, 1.0), moco, 1.0, 0.0, 0.0, 0.0, 'bilinear'),
  }
  keys = ('crop_scale', 'jitter', 'jitter_strength', 'jitter_p', 'gray_p', 'blur_p', 'method')
  for name, row in rows.items():
    assert tuple(default(name)[k] for k in keys) == row, name
    assert default(name)['crop_ratio'] == (3 / 4, 4 / 3) and default(name)['flip_p'] == 0.5
  assert (default('sogclr')['blur_kernel'], default('infomin')['rand_ops']) == (9, 2)


def test_sogclr_is_the_family_and_its_steps():
  images = jnp.asarray(unit(levels(4, 16, 16)))
  got = run(policies.sogclr(size=16, jitter_p=0.0, gray_p=0.0, flip_p=0.0), KEY, images)
  key = jax.random.fold_in(KEY, 0)
  want = run(random_ops.random_resized_crop, key, images, size=16)
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.slow
def test_hyper_parameters_reach_the_operations():
  images = jnp.asarray(unit(levels(32, 12, 12)))
  still = {'crop_scale': (1.0, 1.0), 'crop_ratio': (1.0, 1.0), 'flip_p': 0.0, 'jitter_p': 0.0}
  plain = policies.make('simclr_family', size=12, **still, gray_p=0.0)
  np.testing.assert_allclose(run(plain, KEY, images), images, atol=1e-6)
  changed = {
    'gray_p': 1.0,
    'blur_p': 1.0,
    'solarize_p': 1.0,
    'noise_sigma': 0.1,
    'salt_pepper': 0.5,
  }
  for name, value in changed.items():
    kw = {'gray_p': 0.0, 'blur_kernel': 5, **still, name: value}
    got = run(policies.make('simclr_family', size=12, **kw), KEY, images)
    assert np.abs(got - images).max() > 0.05, name
  off = policies.make(
    'simclr', size=12, **{**still, 'jitter_p': 1.0}, jitter_strength=0.0, gray_p=0.0
  )
  np.testing.assert_allclose(run(off, KEY, images), images, atol=1e-6)


def test_none_keeps_the_images():
  images = jnp.asarray(unit(levels(3, 12, 12)))
  np.testing.assert_array_equal(policies.none(size=12)(KEY, images), images)


@pytest.mark.slow
def test_affine_suits_tiny_digits():
  images = jnp.asarray(unit(levels(3, 8, 8, 1)))
  got = run(policies.affine(size=16), KEY, images)
  assert got.shape == (3, 16, 16, 1)
  correlation = np.corrcoef(
    np.asarray(got).ravel(), np.asarray(geometry.resize(images, 16)).ravel()
  )[0, 1]
  assert 0.3 < correlation < 0.99  # moved, but the digit is still there


def test_errors_list_the_valid_names():
  with pytest.raises(UserError, match=r"'simclr'\? choose one of simclr, sogclr"):
    policies.make('simclrr', size=8)
  with pytest.raises(UserError, match=r"'crop_flip' has no option 'blur': it takes size, padding"):
    policies.make('crop_flip', size=8, blur=1)
  with pytest.raises(UserError, match='it takes size'):
    policies.make('none', size=8, p=1)
  with pytest.raises(UserError, match=r'jitter=\(0.4, 0.4\) is not allowed: give \(a number'):
    policies.make('sogclr', size=8, jitter=(0.4, 0.4))


def _arguments(monkeypatch, name, **hyper):
  """Arguments of each view's `simclr_family`."""
  calls = []
  fake = lambda **kw: calls.append(kw) or (lambda key, images: images)  # noqa: E731
  monkeypatch.setattr(presets, 'simclr_family', fake)
  presets.PRESETS[name](size=32, **hyper)
  return calls


def test_solo_presets_follow_the_table(monkeypatch):
  first, second = _arguments(monkeypatch, 'asymmetric', recipe='solo_imagenet100')
  assert first['jitter'] == second['jitter'] == (0.4, 0.4, 0.2, 0.1)
  assert (first['blur_p'], second['blur_p']) == (1.0, 0.1)
  assert 'solarize_p' not in first and second['solarize_p'] == 0.2
  first, second = _arguments(monkeypatch, 'asymmetric')
  assert first['blur_p'] == second['blur_p'] == 0 and second['solarize_p'] == 0.2
  strong, weak = _arguments(monkeypatch, 'ressl', recipe='solo')
  assert strong['blur_p'] == 0.5 and weak['gray_p'] == weak['jitter_p'] == weak['blur_p'] == 0
  assert _arguments(monkeypatch, 'ressl')[1]['gray_p'] == 0.2
  assert _arguments(monkeypatch, 'wmse')[0]['jitter'] == (0.4, 0.4, 0.2, 0.1)
  assert _arguments(monkeypatch, 'wmse', recipe='solo')[0]['jitter'] == (0.8, 0.8, 0.8, 0.2)
  assert _arguments(monkeypatch, 'vicreg', gray_p=0.7)[1]['gray_p'] == 0.7
  for view in _arguments(monkeypatch, 'symmetric_weak', recipe='solo'):
    assert view['jitter'] == (0.4, 0.4, 0.4, 0.1) and view['blur_p'] == 0.5
    assert view['method'] == 'bicubic'
