"""An experiment builds each thing once."""

import dataclasses

import jax

from clr_jax.experiment import build
from clr_jax.experiment.build import build_experiment
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
