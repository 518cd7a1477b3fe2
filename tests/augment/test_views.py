"""Views: shapes, keys, independence, presets, and the messages for bad configs."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clr_jax.augment as augment
from clr_jax.augment import filters, policies, views
from clr_jax.core.errors import UserError
from tests.augment._images import levels, run, unit

KEY = jax.random.key(9)
IMAGES = jnp.asarray(levels(4, 16, 16))


def test_views_are_the_policy_with_a_key_each():
  policy = policies.make('rrc_flip', size=12)
  made = run(views.triplet(policy), KEY, IMAGES)
  assert set(made) == {'global'}
  assert made['global'].shape == (4, 3, 12, 12, 3)
  assert made['global'].dtype == jnp.float32
  for v in range(3):
    want = run(policy, jax.random.fold_in(KEY, v), unit(np.asarray(IMAGES)))
    np.testing.assert_allclose(made['global'][:, v], want, atol=1e-6)
  assert np.abs(made['global'][:, 0] - made['global'][:, 1]).max((1, 2, 3)).min() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize('name', ['sogclr', 'infomin', 'affine'])
def test_views_made_together_are_the_same(name):
  """Accelerators make all views of a policy at once: with the same draws."""
  apart = augment.make(name, size=12)
  together = dataclasses.replace(apart, together=True)
  want, found = (run(views, KEY, IMAGES) for views in (apart, together))
  assert set(found) == set(want)
  for key in want:
    np.testing.assert_allclose(found[key], want[key], atol=1e-5)


def test_keys_are_folded_in_together():
  folded = [jax.random.fold_in(KEY, i) for i in range(3)]
  found = policies.fold_in_each(KEY, 3)
  for a, b in zip(folded, found, strict=True):
    np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))


def test_makers_know_their_number_of_views():
  policy, other = policies.make('none', size=16), policies.make('crop_flip', size=16)
  cases = [
    (views.single(policy), 1),
    (views.pair(policy), 2),
    (views.triplet(policy), 3),
    (views.multi(policy, 5), 5),
    (views.asymmetric(policy, other), 2),
  ]
  for maker, count in cases:
    assert maker.num_views == count and maker.num_local == 0
    shape = jax.eval_shape(maker, KEY, IMAGES)['global'].shape
    assert shape == (4, count, 16, 16, 3)
  made = run(views.asymmetric(policy, other), KEY, IMAGES)['global']
  np.testing.assert_array_equal(made[:, 0], views.to_float(IMAGES))
  assert np.abs(made[:, 1] - made[:, 0]).max() > 0.01
  with pytest.raises(UserError, match='at least 1'):
    views.multi(policy, 0)


@pytest.mark.slow
def test_multicrop_has_local_views():
  tiny = policies.factory('rrc_flip')
  maker = views.multicrop(tiny(size=12), tiny(size=12), tiny(size=6), 3)
  made = jax.jit(maker)(KEY, IMAGES)
  assert made['global'].shape == (4, 2, 12, 12, 3)
  assert made['local'].shape == (4, 3, 6, 6, 3)
  flat = np.asarray(made['local']).reshape(4, 3, -1)
  assert np.abs(flat[:, 0] - flat[:, 1]).max() > 0.01
  assert np.abs(flat[:, 1] - flat[:, 2]).max() > 0.01


@pytest.mark.slow
def test_sizes_of_multicrop_presets():
  for name, count in (('multicrop_swav', 6), ('multicrop_dino', 8)):
    made = jax.eval_shape(augment.make(name, size=224), KEY, IMAGES)
    assert made['global'].shape == (4, 2, 224, 224, 3)
    assert made['local'].shape == (4, count, 96, 96, 3)
  maker = augment.make('multicrop_dino', size=16, local_size=8, num_local=2, blur_kernel=3)
  assert (maker.num_views, maker.num_local) == (2, 2)
  assert jax.eval_shape(maker, KEY, IMAGES)['local'].shape == (4, 2, 8, 8, 3)
  assert 'local' not in jax.eval_shape(
    augment.make('multicrop_swav', size=16, num_local=0), KEY, IMAGES
  )


@pytest.mark.parametrize(
  ('size', 'taps'), [(224, {23, 13}), (112, {13}), (14, {13, 11})], ids=['224', '112', '14']
)
@pytest.mark.parametrize('name', ['multicrop_swav', 'multicrop_dino'])
def test_multicrop_blurs_like_pil(monkeypatch, name, size, taps):
  """PIL's blur is not cut off: three sigmas of the largest sigma, 2, are 13 taps."""
  blur, used = filters.gaussian_blur, set()

  def record(images, sigma, *, kernel_size):
    used.add(kernel_size)
    return blur(images, sigma, kernel_size=kernel_size)

  monkeypatch.setattr(filters, 'gaussian_blur', record)
  jax.eval_shape(augment.make(name, size=size), KEY, IMAGES)
  assert used == taps


@pytest.mark.slow
def test_jigsaw_patches_of_a_third_crop():
  made = jax.eval_shape(augment.make('infomin_jigsaw', size=224), KEY, IMAGES)
  assert made['global'].shape == (4, 2, 224, 224, 3)
  assert made['jigsaw'].shape == (4, 9, 64, 64, 3)
  maker = augment.make(
    'infomin_jigsaw', size=16, policy='none', grid=2, jigsaw_size=12, patch_size=6, jigsaw_flip_p=0
  )
  made = jax.jit(maker)(KEY, IMAGES)
  assert made['jigsaw'].shape == (4, 4, 6, 6, 3) and made['jigsaw'].dtype == jnp.float32
  np.testing.assert_array_equal(made['global'][:, 0], made['global'][:, 1])
  assert 'jigsaw' not in jax.eval_shape(augment.make('infomin', size=16), KEY, IMAGES)
  with pytest.raises(UserError, match='patch of 5 does not fit a cell of 4 pixels'):
    augment.make('infomin_jigsaw', size=16, jigsaw_size=12, patch_size=5)


@pytest.mark.parametrize('channels', [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize('name', augment.names())
def test_every_name_gives_two_views_of_the_right_shape(name, channels):
  maker = augment.make(name, size=32)
  made = jax.eval_shape(maker, KEY, jnp.zeros((4, 28, 28, channels), jnp.uint8))
  assert made['global'].shape == (4, 2, 32, 32, channels)
  assert made['global'].dtype == jnp.float32


@pytest.mark.parametrize('name', ['asymmetric', pytest.param('ressl', marks=pytest.mark.slow)])
def test_preset_runs_and_its_views_differ(name):
  made = np.asarray(jax.jit(augment.make(name, size=16))(KEY, IMAGES[..., :1])['global'])
  assert made.shape == (4, 2, 16, 16, 1)
  assert made.min() >= 0 and made.max() <= 1
  assert np.abs(made[:, 0] - made[:, 1]).max((1, 2, 3)).min() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize('name', [pytest.param('autoaugment', marks=pytest.mark.slow), 'sogclr'])
def test_sharded_views_are_equal_and_communicate_nothing(name):
  images = jnp.asarray(levels(16, 10, 10))
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  maker = dataclasses.replace(augment.make(name, size=8, num_views=2), together=True)
  compiled = (
    jax.jit(lambda key, images: maker(key, images)['global'], in_shardings=(None, rows))
    .lower(KEY, images)
    .compile()
  )
  for collective in ('all-reduce', 'all-gather', 'all-to-all', 'collective-permute'):
    assert collective not in compiled.as_text()
  got = compiled(KEY, jax.device_put(images, rows))
  np.testing.assert_allclose(got, run(maker, KEY, images)['global'], atol=1e-5)


@pytest.mark.parametrize('name', ['sogclr', 'autoaugment', 'randaugment', 'affine'])
def test_views_stay_float32_in_float64_runs(name, x64):
  made = jax.eval_shape(augment.make(name, size=16, num_views=1), KEY, IMAGES)
  assert made['global'].dtype == jnp.float32


def test_config_errors_are_one_sentence_with_the_choices():
  with pytest.raises(UserError, match=r"'sogclr'\? choose one of simclr, .*asymmetric"):
    augment.make('sogcl', size=32)
  with pytest.raises(UserError, match=r"no option 'blurp': did you mean 'blur_p'\? it takes "):
    augment.make('sogclr', size=32, blurp=1)
  with pytest.raises(UserError, match=r"no option 'sigma': .*it takes size, recipe, crop_scale"):
    augment.make('asymmetric', size=32, sigma=1)
  with pytest.raises(UserError, match=r"no option 'crops': .*it takes size, num_local, local_size"):
    augment.make('multicrop_swav', size=32, crops=1)
  with pytest.raises(UserError, match="'asymmetric' has no option 'num_views'"):
    augment.make('asymmetric', size=32, num_views=3)
  for options, words in (
    ({'recipe': 'solo2020'}, "recipe='solo2020' .* 'solo2022', 'solo', 'solo_imagenet100'"),
    ({'blur_p': 1.5}, 'blur_p=1.5 is not allowed: give a number of at least 0 and of at most 1'),
    ({'crop_scale': (1.0, 0.5)}, 'crop_scale=.* in increasing order'),
  ):
    with pytest.raises(UserError, match=words):
      augment.make('asymmetric', size=32, **options)
  for name in ('sogclr', 'asymmetric'):
    with pytest.raises(UserError, match=r'noise_p=0\.1 has no effect unless noise_sigma is set'):
      augment.make(name, size=32, noise_p=0.1)
  with pytest.raises(UserError, match='1 or 3 channels'):
    augment.make('none', size=32)(KEY, jnp.zeros((2, 8, 8, 4), jnp.uint8))
  assert augment.make('none', size=32, num_views=1).num_views == 1


def test_integers_become_unit_floats():
  np.testing.assert_allclose(views.to_float(jnp.array([0, 51, 255], jnp.uint8)), [0, 0.2, 1])
  np.testing.assert_array_equal(views.to_float(jnp.array([0.25])), [0.25])


def test_public_api_has_the_key_first_and_keyword_only_defaults():
  """Style of the public operations: key, images first; every default is keyword-only."""
  public = {n: f for n, f in vars(augment).items() if inspect.isfunction(f)}
  random = {n for n, f in public.items() if 'key' in inspect.signature(f).parameters}
  assert {'color_jitter', 'random_resized_crop', 'gaussian_noise', 'auto_augment'} <= random
  for name, function in public.items():
    parameters = list(inspect.signature(function).parameters.values())
    if name in random:
      assert [p.name for p in parameters[:2]] == ['key', 'images'], name
    for p in parameters:
      if p.default is not p.empty:
        assert p.kind is p.KEYWORD_ONLY, (name, p.name)
  for name in augment.names():
    for p in inspect.signature(augment.factory(name)).parameters.values():
      assert p.kind is p.KEYWORD_ONLY, (name, p.name)
