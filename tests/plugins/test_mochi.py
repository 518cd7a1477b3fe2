"""MoCHi in the losses of methods; the mixtures themselves: tests/losses/test_mochi.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.plugins.pipeline import Pipeline
from tests.plugins import cases


@cases.each_method
def test_it_acts_or_is_refused(name, x64):
  used = cases.plugin('mochi', num_hard=5, num_mixed=3, num_query_mixed=2, start_epoch=0.0)
  cases.acts_or_is_refused(name, used, refused=name in {*cases.WITHOUT_NEGATIVES, 'nnclr'})


@pytest.mark.parametrize('name', ['simclr', 'moco'])
def test_nothing_happens_before_the_start(name, x64):
  cases.starts_at(name, cases.plugin('mochi', num_mixed=2, num_hard=4, start_epoch=4.0), 20)


@pytest.mark.slow
def test_synthetic_negatives_never_come_from_the_own_sample(x64):
  """All rows but the own pair are orthogonal to it: so are all mixtures of two of them."""
  z = jnp.tile(jnp.eye(cases.DIM)[: cases.BATCH, None], [1, 2, 1])
  used = cases.plugin('mochi', num_mixed=50, num_hard=14, start_epoch=0.0)
  pipeline = Pipeline(used, 'simclr', negatives=True, softmax=True, free_anchor=True)
  options = {'temperature': 0.5, 'rng': jax.random.key(0), 'step': jnp.asarray(0)}
  scores = pipeline.two_view_scores(z, **options)
  np.testing.assert_allclose(scores.negative[..., 2 * cases.BATCH :], 0, atol=1e-12)
  assert scores.negative.shape[-1] == 2 * cases.BATCH + 50


@pytest.mark.slow
def test_too_few_negatives_to_mix_from():
  many = cases.plugin('mochi', num_mixed=2, num_hard=25, start_epoch=0.0)
  with pytest.raises(UserError, match=r'num_hard=25 exceeds the 24 negatives'):
    cases.value_and_grad('moco', many)(0)


def test_it_is_off_by_default():
  assert cases.plugin('mochi') == {'mochi': None}


@pytest.mark.parametrize(
  'options, match',
  [
    ({'num_mixed': -1}, 'num_mixed=-1 is not allowed'),
    ({'num_mixed': 4, 'num_hard': 1}, 'num_hard=1 leaves no pair to mix'),
    ({'num_query_mixed': 4, 'num_hard': 0}, 'num_hard=0 is not allowed'),
    ({'num_mixed': 4, 'start_epoch': 10.0}, 'start_epoch=10.0 is not within the run'),
    ({'num_hard': 8}, 'num_hard=8 has no effect unless num_mixed is set or num_query_mixed is set'),
  ],
)
def test_bad_options_are_refused(options, match):
  with pytest.raises(UserError, match=match):
    cases.plugin('mochi', **options)
