"""Feature transformation in the losses of methods; the formulas: tests/losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.losses.scores import two_view_scores
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins.pipeline import Pipeline
from tests.plugins import cases


def moved(**options):
  return cases.plugin('feature_transformation', **options)


@cases.each_method
@pytest.mark.parametrize(
  'options',
  [
    {'positive': 'dim'},
    {'negative': 'row'},
    {'positive': 'batch', 'negative': 'dim'},
    {'negative': 'batch', 'union': True},
  ],
  ids=['positive', 'negative', 'both', 'union'],
)
def test_it_acts_or_is_refused(name, options, x64):
  refused = 'negative' in options and name in cases.WITHOUT_NEGATIVES
  cases.acts_or_is_refused(name, moved(**options), refused=refused)


@pytest.mark.parametrize('name', ['simclr', 'moco', 'simsiam'])
def test_nothing_happens_before_the_start(name, x64):
  late = {'positive': 'dim', 'start_epoch': 4.0}
  if name not in cases.WITHOUT_NEGATIVES:
    late |= {'negative': 'row', 'union': True}
  cases.starts_at(name, moved(**late), 20)


def test_both_views_of_a_pair_move_by_the_same_draw(x64):
  z = l2_normalize(jnp.asarray(np.random.default_rng(1).normal(size=[cases.BATCH, 2, cases.DIM])))
  facts = {'negatives': True, 'softmax': True, 'free_anchor': True}
  options = {'temperature': 0.5, 'rng': jax.random.key(0), 'step': jnp.asarray(0)}
  scores = Pipeline(moved(positive='dim'), 'simclr', **facts).two_view_scores(z, **options)
  np.testing.assert_allclose(scores.positive[:, 0], scores.positive[:, 1], rtol=1e-12)
  assert (scores.positive < two_view_scores(z).positive).any()


@pytest.mark.parametrize(
  'other, options',
  [('margin', {'angular': 0.5}), ('gradient_scaling', {'curvature': 0.7})],
)
def test_an_extrapolated_pair_has_no_angle(other, options):
  other = cases.plugin(other, **options)
  with pytest.raises(UserError, match=r'no angle.*postnorm=True, or plugins'):
    cases.make('moco', {**other, **moved(positive='dim')})
  cases.make('moco', {**other, **moved(positive='batch', postnorm=True)})
  cases.make('moco', {**other, **moved(negative='batch')})


def test_it_is_off_by_default():
  assert moved() == {'feature_transformation': None}


@pytest.mark.parametrize(
  'options, match',
  [
    ({'positive': 'rows'}, "positive='rows' is not allowed"),
    ({'union': True}, 'union=True has no effect unless negative is set'),
    ({'negative': 'row', 'postnorm': True}, 'postnorm=True has no effect unless positive is set'),
    ({'positive_alpha': 0.2}, 'positive_alpha=0.2 has no effect unless positive is set'),
    ({'positive': 'row', 'start_epoch': 10.0}, 'start_epoch=10.0 is not within the run'),
    ({'positive': 'row', 'positive_alpha': 0.0}, 'positive_alpha=0.0 is not allowed'),
  ],
)
def test_bad_options_are_refused(options, match):
  with pytest.raises(UserError, match=match):
    moved(**options)
