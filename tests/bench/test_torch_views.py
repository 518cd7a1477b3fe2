"""clr-jax bench --peer: the views of the PyTorch step are those of clr_jax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.augment import autoaugment as aa
from clr_jax.augment.color import adjust_hue
from clr_jax.bench import torch_reference
from clr_jax.core.config_tree import to_dict
from clr_jax.experiment.schema import section

torch = pytest.importorskip('torch')


@pytest.mark.slow
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', torch_reference.TAKEN['augment.name'])
def test_views_are_images(name, channels):
  from clr_jax.bench.torch_reference import views

  options = to_dict(section('augment', name=name, size=8))
  if options.get('blur_p', 1.0) == 0:
    options |= {'blur_p': 1.0, 'solarize_p': 0.5}
  torch.manual_seed(0)
  images = torch.rand(6, channels, 12, 12)
  for together in (False, True):
    made = views.make(options, 2, together=together)[0](images)
    assert len(made) == 2 and (name == 'none' or not made[0].equal(made[1]))
    for view in made:
      assert view.shape == (6, channels, 8, 8) and view.dtype == torch.float32
      assert view.min() >= -1e-4 and view.max() <= 1.0001 and view.std() > 0.01


def test_presets_have_a_policy_for_each_view():
  from clr_jax.bench.torch_reference import views

  options = {'name': 'asymmetric', 'recipe': 'solo_imagenet100', 'size': 8}
  assert views.make(options, 2, together=True)[1][-2:] == ['blur', 'solarize']
  images = torch.rand(4, 3, 8, 8)
  still = {'jitter_p': 0.0, 'gray_p': 0.0, 'blur_p': 0.0, 'flip_p': 0.0, 'crop_scale': (1.0, 1.0)}
  still |= {'crop_ratio': (1.0, 1.0), 'solarize_p': 1.0, 'recipe': 'solo2022'}
  for view in views.make({**options, **still}, 2, together=False)[0](images):
    np.testing.assert_allclose(view, torch.where(images >= 0.5, 1 - images, images), atol=1e-5)


def test_shifted_images_are_windows_of_the_padded_ones():
  from clr_jax.bench.torch_reference import views

  images = torch.rand(40, 3, 5, 5)
  options = {'name': 'crop_flip', 'padding': 1, 'size': 5}
  for image, view in zip(images, views.make(options, 1, together=False)[0](images)[0], strict=True):
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    windows = [padded[:, i : i + 5, j : j + 5] for i in range(3) for j in range(3)]
    assert any(view.equal(w) or view.equal(w.flip(-1)) for w in windows)


def test_views_without_chance_are_ours():
  """The whole image, its color as it is: only the flip is left, and it is a flip."""
  from clr_jax.bench.torch_reference import views

  options = {'name': 'rrc_flip', 'size': 6, 'flip_p': 1.0}
  options |= {'crop_scale': (1.0, 1.0), 'crop_ratio': (1.0, 1.0)}
  images = torch.rand(2, 3, 6, 6)
  (found,) = views.make(options, 1, together=False)[0](images)
  np.testing.assert_allclose(found, images.flip(-1), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('channels', [1, 3])
def test_the_operations_of_autoaugment_are_ours(channels):
  """Each operation on an image of its own, downward and upward where it has a direction."""
  from clr_jax.bench.torch_reference import autoaugment

  images = np.random.default_rng(0).uniform(size=(30, 11, 11, channels)).astype(np.float32)
  images[:, :, :4] *= 0.4
  operation = np.arange(30) % 15
  bins = aa.magnitude_table(10, 11, 11)[operation, 7]
  signs = np.where((np.arange(30) >= 15) & np.isin(aa.OPERATIONS, aa.SIGNED)[operation], -1, 1)
  magnitude = (bins * signs).astype(np.float32)
  found = autoaugment.apply_operations(
    torch.tensor(images).permute(0, 3, 1, 2),
    torch.tensor(operation),
    torch.tensor(magnitude),
    fill=0.25,
  )
  apply = jax.jit(functools.partial(aa.apply_operations, fill=0.25))
  expected = apply(jnp.asarray(images), jnp.asarray(operation), jnp.asarray(magnitude))
  np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, atol=1e-5)
  changed = np.abs(np.asarray(expected) - images).max((1, 2, 3)) > 1e-3
  same = ('identity', 'color') if channels == 1 else ('identity',)
  assert [aa.OPERATIONS[i] for i in operation[~changed]] == [*same, *same]


def test_centered_shears_are_ours():
  from clr_jax.bench.torch_reference import autoaugment

  images = np.random.default_rng(0).uniform(size=(2, 11, 11, 3)).astype(np.float32)
  operation, magnitude = np.array([1, 2]), np.array([0.23, -0.17], np.float32)
  found = autoaugment.apply_operations(
    torch.tensor(images).permute(0, 3, 1, 2),
    torch.tensor(operation),
    torch.tensor(magnitude),
    centered=True,
  )
  arguments = jnp.asarray(images), jnp.asarray(operation), jnp.asarray(magnitude)
  expected = aa.apply_operations(*arguments, centered=True)
  np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, atol=1e-5)


def test_hue_turns_as_ours():
  from clr_jax.bench.torch_reference import views

  images = np.random.default_rng(0).uniform(size=(4, 5, 5, 3)).astype(np.float32)
  shift = np.array([-0.4, -0.1, 0.2, 0.5], np.float32)
  found = views._turn_hue(
    torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(shift)[:, None, None]
  )
  expected = adjust_hue(jnp.asarray(images), jnp.asarray(shift))
  np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, atol=1e-5)
