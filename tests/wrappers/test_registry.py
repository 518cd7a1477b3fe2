"""The wrappers of `config.plugins`: their order, and what a new file of `wrappers` gets unasked."""

import pytest

from clr_jax import models, wrappers
from clr_jax.core.errors import UserError
from clr_jax.core.types import RunInfo
from clr_jax.experiment.method import make_method
from tests import tiny
from tests.adding import added

INFO = RunInfo(100, 10, 20, 2, 5, 50)
DOUBLE = '''
"""Multiplies the loss of methods whose images have a positive of their own."""

from typing import Annotated

from annotated_types import Ge

from clr_jax.core.errors import UserError

ORDER = 15


def double(method, info, *, times: Annotated[int, Ge(1)] = 1):
  if times == 1:
    return method
  if method.pairs != 'own':
    raise UserError(f'double has no meaning for {method.name}: set plugins.double.times=1')

  def loss(*args):
    value, carry, metrics = method.loss(*args)
    return times * value, carry, {**metrics, 'times': times}

  return method._replace(loss=loss)
'''


def make(config):
  return make_method(config, models.make('resnet_tiny', width=2), INFO)


def test_the_order():
  """Un-Mix is in place of the method's own embeddings, Tikhonov of all that adds to the loss."""
  assert wrappers.in_order() == ['un_mix', 'layerwise', 'tikhonov']


def test_a_new_wrapper_is_one_file(tmp_path):
  with added(tmp_path, wrappers, {'double': DOUBLE}):
    assert wrappers.in_order() == ['un_mix', 'double', 'layerwise', 'tikhonov']
    config = tiny.get_config('simclr')
    config.probe.enabled = False
    assert config.plugins.double.to_dict() == {'times': 1}
    plain, method = make(config)
    assert plain is method
    config.plugins.double.times = 3
    plain, method = make(config)
    assert plain.loss is not method.loss and plain.embed is method.embed
    config.plugins.double.times = 0
    with pytest.raises(UserError, match=r'plugins\.double\.times=0 is not allowed'):
      make(config)
    config = tiny.get_config('vicreg')
    config.plugins.double.times = 3
    with pytest.raises(UserError, match='no meaning for vicreg'):
      make(config)
