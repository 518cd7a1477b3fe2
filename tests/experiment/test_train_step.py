"""The devices share a step's work: equal numbers would also come from doing all of it on each."""

import re

import jax
import pytest

from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.training.dispatch import make_dispatch


def _compiled(config, devices):
  experiment = build_experiment(config, devices=jax.devices()[:devices])
  pipeline = experiment.make_pipeline()
  (block,) = pipeline.blocks([(0, 1)])
  dispatch = make_dispatch(experiment, pipeline, 1)
  return dispatch.lower(experiment.abstract_state, pipeline.resident, block).compile()


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['resident', 'streamed'])
def test_devices_share_the_work(request, mode):
  config = load(str(request.config.rootpath / 'tests' / 'tiny.py:simclr'))
  config.data.mode = mode
  one, four = (_compiled(config, n) for n in (1, 4))
  assert four.cost_analysis()['flops'] < 0.5 * one.cost_analysis()['flops']
  # Nothing of the rank of image batches moves; all-reduces of kernels have it too, but are sums.
  moves = r'= \(?\w+\[((?:\d+,){3,}\d+)\]\S* (?:all-gather|all-to-all|collective-permute)'
  assert not re.findall(moves, four.as_text())
