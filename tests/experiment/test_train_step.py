"""The devices share a step's work: equal numbers would also come from doing all of it on each."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clr_jax
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.ops import sharding
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


@pytest.mark.slow
def test_the_steps_of_gpus_and_tpus_give_the_numbers_of_cpus(request, monkeypatch):
  """Parameters updated in few kernels, BatchNorm in one pass: here by CPUs, eight of them."""
  monkeypatch.chdir(request.config.rootpath)
  given = {'optimizer.name': 'lars', 'batch_size': 16}
  config = clr_jax.load_config('tests/tiny.py:sogclr', given)
  found = []
  for kind in ('on_cpu', 'launches_matter', 'on_tpu'):
    for asked in ('on_cpu', 'launches_matter', 'on_tpu'):
      monkeypatch.setattr(sharding, asked, lambda mesh, same=asked == kind: same)
    experiment = build_experiment(config)
    assert experiment.views.together == (kind != 'on_cpu')
    pipeline = experiment.make_pipeline()
    (block,) = pipeline.blocks([(0, 1)])
    state, metrics = make_dispatch(experiment, pipeline, 1)(
      experiment.init(), pipeline.resident, block
    )
    found.append((state.params, state.state, state.opt_state, metrics))
  start = experiment.init().params
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), start, found[0][0])
  assert max(jax.tree.leaves(moved)) > 1e-4
  for cpu, *others in zip(*map(jax.tree.leaves, found), strict=True):
    for other in others:
      np.testing.assert_allclose(other, cpu, rtol=1e-4, atol=1e-6)
