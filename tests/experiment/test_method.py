"""`config.plugins`: what an option that is on does to the method, and which ones are refused."""

import jax
import numpy as np
import pytest

from clr_jax import models
from clr_jax.core.errors import UserError
from clr_jax.experiment.build import build_experiment, example_batch
from clr_jax.experiment.method import make_method
from tests import tiny
from tests.experiment.from_config import INFO, make


@pytest.mark.parametrize(
  ('method', 'changes', 'words'),
  [
    (
      'simclr',
      {'un_mix__probability': 0.3},
      'has no effect unless plugins.un_mix.enabled is',
    ),
    (
      'simclr',
      {'layerwise__temperature': 0.1},
      'unless plugins.layerwise.weights is set',
    ),
    ('simclr', {'mochi__num_hard': 8}, 'mochi.num_hard=8 has no effect unless .*num_mixed'),
    ('simclr', {'feature_transformation__positive_alpha': 0.2}, 'positive_alpha=0.2 has no effect'),
    ('simclr', {'gradient_scaling__strength': 0.2}, 'strength=0.2 has no effect unless .*attenua'),
    ('simclr', {'margin__beyond': 'clip'}, 'beyond=clip has no effect unless .*angular'),
    ('simclr', {'feature_transformation__postnorm': True}, 'postnorm=True has no effect'),
    ('supcon', {'margin__angular': 0.2}, 'supcon supports no plug-ins inside its loss.*simclr'),
    ('supcon', {'un_mix__enabled': True}, 'un_mix does not support supcon'),
  ],
)
def test_refused(method, changes, words):
  with pytest.raises(UserError, match=words):
    make(method, **changes)


def test_wrappers_are_left_out_of_the_plain_method():
  plain, method = make(un_mix__enabled=True, layerwise__weights=(0.1, 0.1, 1.0))
  assert plain.loss is not method.loss and plain.embed is not method.embed


@pytest.mark.parametrize('unlabeled', [True, False])
def test_nothing_is_on_but_the_probe_of_labeled_data(unlabeled):
  config = tiny.get_config('simclr')
  info = INFO._replace(num_classes=None if unlabeled else 10)
  plain, method = make_method(config, models.make('resnet_tiny', width=2), info)
  assert (plain is method) == unlabeled and ('probe' in method.groups) != unlabeled
  config.probe.enabled = False
  plain, method = make_method(config, models.make('resnet_tiny', width=2), info)
  assert plain is method


@pytest.mark.slow
def test_all_at_once_from_a_config():
  config = tiny.get_config('simclr')
  config.plugins.feature_transformation.update({'positive': 'row', 'negative': 'row'})
  config.plugins.feature_transformation.postnorm = True
  config.plugins.mochi.update({'num_mixed': 4, 'num_hard': 16, 'start_epoch': 0.5})
  config.plugins.margin.update({'angular': 0.1, 'subtractive': 0.2})
  config.plugins.gradient_scaling.update({'emphasis': 2.0, 'curvature': 1.0})
  config.plugins.un_mix.enabled = True
  config.plugins.layerwise.weights = (0.1, 0.1, 0.1)
  experiment = build_experiment(config)
  state, step = experiment.init(), jax.jit(experiment.step_fn)
  for _ in range(2):
    state, metrics = step(state, example_batch(experiment.source, 64))
  assert all(np.isfinite(x) for x in metrics.values())
  assert {'mixed_loss', 'layerwise_loss'} <= set(metrics)
