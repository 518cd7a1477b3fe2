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
    ('simclr', {'un_mix__probability': 0.3}, 'un_mix.probability=0.3 does nothing.*enabled'),
    ('simclr', {'layerwise__temperature': 0.1}, 'layerwise.temperature=0.1 does nothing.*weights'),
    ('simclr', {'mochi__num_hard': 8}, 'mochi.num_hard=8 does nothing.*num_mixed'),
    ('simclr', {'feature_transformation__positive_alpha': 0.2}, 'positive_alpha=0.2 does nothing'),
    ('simclr', {'gradient_scaling__strength': 0.2}, 'strength is of an attenuation'),
    ('simclr', {'margin__beyond': 'clip'}, 'beyond is of an angular margin'),
    ('simclr', {'feature_transformation__postnorm': True}, 'postnorm is of the extrapolated pair'),
    ('supcon', {'margin__angular': 0.2}, 'supcon takes no plug-ins inside its loss.*simclr'),
    ('supcon', {'un_mix__enabled': True}, 'un_mix has no meaning for supcon'),
  ],
)
def test_refused(method, changes, words):
  with pytest.raises(UserError, match=words):
    make(method, **changes)


def test_wrappers_are_left_out_of_the_plain_method():
  plain, method = make()
  assert plain is method
  plain, method = make(un_mix__enabled=True, layerwise__weights=(0.1, 0.1, 1.0))
  assert plain.loss is not method.loss and plain.embed is not method.embed


def test_a_config_of_a_version_without_plugins():
  config = tiny.get_config('simclr')
  del config['plugins']
  plain, method = make_method(config, models.get('resnet_tiny', width=2), INFO)
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
