"""Errors of methods without a target network, and SimSiam's predictor."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import methods, models, optim
from clr_jax.core.errors import UserError
from clr_jax.core.types import RunInfo
from clr_jax.optim import schedules

PAIRWISE = ('arb', 'barlow_twins', 'dcl', 'debiased', 'flatnce', 'hcl', 'rpc', 'simsiam', 'vicreg')


def make(name, *, batch_size=128, num_views=2, total_steps=30, **hyper):
  info = RunInfo(
    num_examples=1000,
    num_classes=None,
    batch_size=batch_size,
    num_views=num_views,
    steps_per_epoch=10,
    total_steps=total_steps,
  )
  return methods.factory(name)(models.make('resnet_tiny'), info, **hyper)


@pytest.mark.parametrize('name', PAIRWISE)
def test_sizes_that_cannot_work(name):
  with pytest.raises(UserError, match='num_views=2, not 3'):
    make(name, num_views=3)
  with pytest.raises(UserError, match='batch_size >= 2'):
    make(name, batch_size=1)


@pytest.mark.parametrize(
  'name, options, message',
  [
    ('w_mse', {'num_views': 1}, 'num_views >= 2'),
    ('w_mse', {'out_dim': 128}, 'cannot whiten 128 dimensions with 128 images'),
    ('w_mse', {'batch_size': 200}, 'equal chunks'),
    ('arb', {'groups': 3}, 'groups=3 does not divide'),
  ],
)
def test_options_that_cannot_work(name, options, message):
  with pytest.raises(UserError, match=message):
    make(name, **options)


def test_w_mse_accepts_small_chunks_with_eps():
  make('w_mse', out_dim=128, eps=0.01)


def test_simsiam_holds_the_predictor_at_the_peak():
  """The other groups follow warm-up and cosine."""
  steps = 12
  schedule = schedules.warmup_cosine(0.4, total_steps=steps, warmup_steps=3)
  params = {k: jnp.zeros([2, 2]) for k in ('backbone', 'projector', 'predictor')}
  grads = {k: jnp.ones([2, 2]) for k in params}
  method = make('simsiam', total_steps=steps)
  tx = optim.make('sgd', method.groups, learning_rate=schedule, momentum=0.0)
  state = tx.init(params)
  for step in range(steps):
    updates, state = tx.update(grads, state, params)
    np.testing.assert_allclose(updates['predictor'], -0.4, rtol=1e-6)
    np.testing.assert_allclose(updates['backbone'], -schedule(step), rtol=1e-6)
    params = optax.apply_updates(params, updates)
  assert not make('simsiam', constant_predictor_lr=False).groups
