"""Methods under each plug-in and wrapper, SAM and accumulation take a vision transformer, or refuse
it with the sentence with which they refuse a ResNet. Steps are traced, not compiled; every method
trains one in tests/methods/test_contract.py.
"""

import jax
import numpy as np
import pytest

from clr_jax import augment, methods, models
from clr_jax.core.errors import UserError
from clr_jax.core.types import RunInfo
from clr_jax.experiment.method import make_method
from tests import tiny, toy
from tests.method_cases import SKELETONS
from tests.wrappers.test_new_methods import SWITCHES

pytestmark = pytest.mark.weekly
INFO = RunInfo(100, 4, toy.BATCH, 2, 5, 50)
ALL = {
  **SWITCHES,
  'layerwise': {'plugins.layerwise.weights': (0.1, 0.5, 1.0)},
  'mochi': {'plugins.mochi.num_mixed': 2, 'plugins.mochi.num_hard': 4},
  'feature_transformation': {'plugins.feature_transformation.positive': 'batch'},
  'gradient_scaling': {'plugins.gradient_scaling.emphasis': 2.0},
}


def vit(name):
  patch = 1 if name == 'infomin' else 2  # whose jigsaw has windows of 3 x 3 pixels
  options = {'width': 16, 'depth': 3, 'heads': 2, 'mlp_ratio': 2, 'drop_path': 0.1}
  return models.make('vit_tiny', patch=patch, **options)


def refusal(name, flags, backbone, **optimizer):
  """The sentence that refuses a training step, or '' for one that keeps the state's shapes."""
  config = tiny.get_config(name)
  config.update_from_flattened_dict(flags)
  views = toy.views_and_patches if name == 'infomin' else augment.make('affine', size=toy.SIDE)
  try:
    method = make_method(config, backbone, INFO)[1]
    init, step = toy.training(method, views, name='adamw', **optimizer)
    state = jax.eval_shape(init, jax.random.key(0))
    after, metrics = jax.eval_shape(step, state, toy.batch(0))
  except UserError as error:
    return str(error)
  assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, state)
  assert metrics['loss'].shape == ()
  return ''


def test_all_plug_ins_and_wrappers_are_switched_on():
  switched = {key.split('.')[1] for flags in ALL.values() for key in flags if 'plugins.' in key}
  assert switched == set(tiny.get_config().plugins)


@pytest.mark.parametrize('name', methods.names())
def test_sam_and_accumulation(name):
  assert not refusal(name, {}, vit(name), sam={'rho': 0.05})
  resnet = models.make('resnet_tiny', width=4)
  accumulated = {'accumulate': 2}
  assert refusal(name, accumulated, vit(name)) == refusal(name, accumulated, resnet)


@pytest.mark.parametrize('switch', ALL)
@pytest.mark.parametrize('name', SKELETONS)
def test_plug_ins_and_wrappers(name, switch):
  resnet = models.make('resnet_tiny', width=4)
  found = refusal(name, ALL[switch], vit(name))
  assert found == refusal(name, ALL[switch], resnet)
  if name == 'simclr' and switch != 'mochi' and switch != 'tikhonov own':
    assert not found
