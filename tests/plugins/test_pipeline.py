"""The points at which plug-ins act, their order, and what a new file of `plugins` gets unasked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import models, plugins
from clr_jax.core.errors import UserError
from clr_jax.experiment.method import make_method
from clr_jax.losses import feature_transformation as ft
from clr_jax.losses import margin as margins
from clr_jax.losses.scores import infonce, queue_scores
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins import PLUGINS
from clr_jax.wrappers.layerwise import layerwise
from clr_jax.wrappers.un_mix import un_mix
from tests import tiny, toy
from tests.adding import added
from tests.plugins import cases
from tests.plugins.cases import BATCH, DIM


def test_the_methods_that_take_plugins():
  wanted = {
    'simclr',
    'moco',
    'moco_v2plus',
    'moco_v3',
    'sogclr',
    'dynamic_moco',
    'infomin',
    'nnclr',
  }
  assert wanted | {'simsiam', 'byol'} <= set(cases.TAKING)


@pytest.mark.slow
def test_moco_composes_the_functions(x64):
  """Feature transformation, then margins, then scaling, with the method's own draws."""
  used = {  # not in the order in which they act
    **cases.plugin('gradient_scaling', emphasis=5.0),
    **cases.plugin('margin', subtractive=0.4),
    **cases.plugin('feature_transformation', positive='batch', negative='dim'),
  }
  out, state, batch = cases.inputs('moco')
  value = cases.make('moco', used).loss(out, state, batch, jax.random.key(5), jnp.asarray(3))[0]
  pair_key, rows_key, _ = jax.random.split(jax.random.key(5), 3)
  settings = used['feature_transformation']
  queue = state['queue']['rows']
  lam = ft.draw_positive(
    pair_key, (BATCH, DIM), scope='batch', quantiles=settings.positive_quantiles
  )
  query, key = l2_normalize(out.online[:, 0]), l2_normalize(out.target[:, 0])
  query, key = ft.extrapolate(query, key, lam)
  weights, partner = ft.draw_negative(
    rows_key, (24, DIM), scope='dim', quantiles=settings.negative_quantiles
  )
  scores = queue_scores(query, key, ft.interpolate(queue, weights, partner))
  scores = scores._replace(positive=scores.positive - 0.4)
  scores = margins.scale_scores(scores, temperature=0.07, emphasis=5.0)
  np.testing.assert_allclose(value, infonce(scores, temperature=0.07).mean(), rtol=1e-12)


def test_more_than_two_views_are_refused():
  info = cases.INFO._replace(num_views=3)
  with pytest.raises(UserError, match='num_views=2'):
    cases.make('simclr', cases.plugin('margin', angular=0.2), info=info)


SHIFT = '''
"""Subtracts a number from the scores of the negatives of methods with a softmax."""

import dataclasses
from typing import Annotated

from annotated_types import Ge

from clr_jax.core.errors import UserError
from clr_jax.core.options import OnlyWith
from clr_jax.plugins.pipeline import Plugin


@dataclasses.dataclass(frozen=True)
class Shift(Plugin):
  by: float
  order = 25

  def check(self, facts):
    if not facts.softmax:
      raise UserError(f'{facts.method} has no softmax: set plugins.shift.by to 0')
    return facts

  def change_negatives(self, scores, compared):
    return scores._replace(negative=scores.negative - self.by)


def shift(
  info, *, by: Annotated[float, Ge(0)] = 0.0, twice: Annotated[bool, OnlyWith('by')] = False
):
  return Shift(2 * by if twice else by) if by else None
'''


@pytest.mark.slow
def test_a_new_plugin_is_one_file(tmp_path, x64):
  """It is found, has its place in configs, acts at its point, and is refused by its own check."""
  before = tiny.get_config('simclr')
  with added(tmp_path, plugins, {'shift': SHIFT}):
    assert 'shift' in PLUGINS.names()
    config = tiny.get_config('simclr')
    assert config.plugins.shift.to_dict() == {'by': 0.0, 'twice': False}

    def loss(config, info=cases.INFO):
      method, _ = make_method(config, models.make('resnet_tiny', width=2), info)
      out, state, batch = cases.inputs('simclr')
      return float(method.loss(out, state, batch, jax.random.key(5), jnp.asarray(0))[0])

    plain = loss(config)
    assert loss(before) == plain  # a config of before
    config.plugins.shift.by = 0.3
    assert loss(config) < plain
    with pytest.raises(UserError, match=r'plugins\.shift\.by=-1.0 is not allowed'):
      config.plugins.shift.by = -1.0
      loss(config)
    with pytest.raises(
      UserError, match=r'shift\.twice=True has no effect unless plugins\.shift\.by'
    ):
      config.plugins.shift.update({'by': 0.0, 'twice': True})
      loss(config)
    config = tiny.get_config('sogclr')
    config.plugins.shift.by = 0.3
    with pytest.raises(UserError, match='sogclr has no softmax'):
      make_method(config, models.make('resnet_tiny', width=2), cases.INFO._replace(num_examples=99))


@pytest.mark.weekly
@pytest.mark.parametrize('name', ['simclr', 'sogclr', 'byol', 'moco'])
def test_everything_together_on_eight_devices(name, x64):
  """All that has a meaning for the method, Un-Mix, layer losses and SAM in one step."""
  moved = {'positive': 'dim', 'postnorm': True}
  scaled = {'emphasis': 1.0 if name in cases.WITHOUT_NEGATIVES else 2.0, 'curvature': 0.7}
  if name not in cases.WITHOUT_NEGATIVES:
    moved |= {'negative': 'row', 'union': True}
  if name not in cases.WITHOUT_SOFTMAX:
    scaled['attenuation'] = 'type1'
  used = {
    **cases.plugin('margin', angular=0.2),
    **cases.plugin('feature_transformation', **moved),
    **cases.plugin('gradient_scaling', **scaled),
  }
  if name not in cases.WITHOUT_NEGATIVES:
    mochi = {'num_mixed': 4, 'num_query_mixed': 2, 'num_hard': 6, 'start_epoch': 0.0}
    used |= cases.plugin('mochi', **mochi)

  symmetric = {'symmetric': True} if name == 'moco' else {}
  method = un_mix(toy.method(name, toy.Staged(), plugins=used, **symmetric), toy.INFO, enabled=True)
  method = layerwise(method, toy.INFO, weights=(0.1, 0.2))
  toy.same_on_eight_devices(method, sam={'rho': 0.05})
