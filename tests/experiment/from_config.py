"""Methods as a config with plug-ins makes them."""

from clr_jax import models
from clr_jax.core.types import RunInfo
from clr_jax.experiment.method import make_method
from tests import tiny

INFO = RunInfo(100, 10, 20, 2, 5, 50)


def make(method='simclr', **changes):
  """(plain method, method) of tests/tiny.py with options such as mochi__num_hard=8."""
  config = tiny.get_config(method)
  for key, value in changes.items():
    plugin, _, option = key.partition('__')
    config.plugins[plugin][option] = value
  return make_method(config, models.make('resnet_tiny', width=2), INFO)
