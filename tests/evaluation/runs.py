"""Tiny runs to evaluate."""

import pathlib

import jax
import pytest

from clr_jax.experiment import build
from clr_jax.experiment.config_files import load
from clr_jax.ops import sharding
from clr_jax.rundir import results as results_lib
from clr_jax.rundir import workdir

TINY = pathlib.Path(__file__).parent.parent / 'tiny.py'

SHORT = {
  'progress': False,
  'num_epochs': 0.2,
  'schedule.warmup_epochs': 0.1,
  'checkpoint_every': 0.0,
  'eval_every': 0.0,
}


@pytest.fixture(autouse=True, scope='module')
def one_device():
  """Compiling for eight takes three times as long."""
  with pytest.MonkeyPatch.context() as patch:
    mesh = sharding.make_mesh(jax.devices()[:1])
    patch.setattr(build.sharding, 'make_mesh', lambda devices=None: mesh)
    yield


def tiny(method='sogclr', **changes):
  config = load(f'{TINY}:{method}')
  with config.unlocked():
    config.update_from_flattened_dict({**SHORT, **changes})
  return config


def results(directory):
  return results_lib.read_results(workdir.Workdir(directory))
