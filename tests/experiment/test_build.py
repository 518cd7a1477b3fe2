"""An experiment builds each thing once, and says what stands for more than it is."""

import dataclasses

import jax
import pytest

from clr_jax.experiment import build, config_base
from clr_jax.experiment.build import build_experiment, shared_statistics
from clr_jax.experiment.config_files import load
from clr_jax.ops import sharding


def test_each_thing_is_built_once_for_each_mesh(request, monkeypatch):
  traced, init_state = [], build.init_state
  monkeypatch.setattr(build, 'init_state', lambda *args: traced.append(None) or init_state(*args))
  config = load(str(request.config.rootpath / 'tests' / 'tiny.py:simclr'))
  experiment = build_experiment(config, devices=jax.devices()[:2])
  assert not traced  # the optimizer does not need the parameters
  for name in ('abstract_state', 'shardings', 'step_fn'):
    assert getattr(experiment, name) is getattr(experiment, name)
  assert len(traced) == 1
  one = dataclasses.replace(experiment, mesh=sharding.make_mesh(jax.devices()[:1]))
  assert len(one.shardings.step.device_set) == 1 and one.step_fn is not experiment.step_fn
  assert len(experiment.shardings.step.device_set) == 2


@pytest.mark.parametrize(
  ('options', 'channels', 'said'),
  [
    ({}, 3, ''),  # neither changes a pixel
    ({'mean': (0.5,)}, 1, ''),
    ({'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}, 3, ''),
    (
      {'mean': (0.25,), 'std': (0.5,)},
      3,
      'model.mean=(0.25,) and model.std=(0.5,): one value for all 3 channels',
    ),
    (
      {'mean': (0.5, 0.5, 0.5), 'std': (0.5,)},
      3,
      'model.std=(0.5,): one value for all 3 channels',
    ),
  ],
)
def test_pixel_statistics_of_one_value_for_all_channels_are_said(options, channels, said):
  config = load('quickstart:simclr')
  with config.unlocked():
    config.model = config_base.model('resnet_tiny', width=4, **options)
  assert shared_statistics(config, channels) == said
