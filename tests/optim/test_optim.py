"""Optimizer groups, LARS, SAM and noise-SAM; the golden archives hold the formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import optim
from clr_jax.core.errors import UserError
from clr_jax.core.types import Group
from tests.optim.small import ALL, SAMS, STEPS, assert_equal, make_grads, make_params, run, sgd


# ---------------------------------------------------------------- every optimizer
@pytest.mark.parametrize('sam', SAMS, ids=lambda s: s.get('name', 'sam' if s else 'plain'))
@pytest.mark.parametrize('name', ALL)
def test_state_is_stable_and_one_compilation_serves_all_steps(name, sam):
  """In x64 too: float32 parameters with a float64 schedule stay float32."""
  with jax.enable_x64(True):
    params = make_params()
    groups = {'probe': Group(lr=0.1, no_sam=True), 'projector': Group(freeze_steps=1)}
    tx = optim.make(
      name,
      groups,
      learning_rate=lambda step: 0.1 / jnp.sqrt(1.0 + step),
      weight_decay=1e-3,
      sam=sam,
    )
    count = 0

    def step(params, state, t):
      nonlocal count
      count += 1
      grad_fn = lambda p, _: jax.tree.map(lambda x: x**3, p)  # noqa: E731
      updates, state = tx.update(grad_fn(params, 0), state, params, grad_fn=grad_fn)
      return optax.apply_updates(params, updates), state

    step = jax.jit(step)
    state = tx.init(params)
    shapes = jax.eval_shape(tx.init, params)
    described = jax.tree.map(lambda x: (x.shape, x.dtype), (params, shapes))
    for t in range(3):
      params, state = step(params, state, t)
      assert jax.tree.map(lambda x: (x.shape, x.dtype), (params, state)) == described
    assert count == 1
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(params))


@pytest.mark.parametrize('form', ['mocov3', 'simclr', 'clipped', 'unclipped'])
def test_lars_takes_zero_gradients_weights_and_learning_rates(form):
  params = {'net': {'kernel': jnp.zeros([2, 2]), 'dead': jnp.ones([2, 2])}}
  grads = {'net': {'kernel': jnp.ones([2, 2]), 'dead': jnp.zeros([2, 2])}}
  tx = optim.lars(lambda step: 0.1 * step, 0.01, form=form)
  state = tx.init(params)
  update = jax.jit(tx.update)
  updates, state = update(grads, state, params)
  assert_equal(updates, jax.tree.map(jnp.zeros_like, params))  # the learning rate is 0
  updates, state = update(grads, state, params)
  assert jnp.isfinite(updates['net']['dead']).all()
  assert (updates['net']['kernel'] < -0.05).all()  # a full step for a kernel that is zero


def test_lars_in_simclr_form_equals_optax():
  params = make_params()
  schedule = lambda step: 0.3 / (1 + step)  # noqa: E731
  options = {'weight_decay': 0.01, 'momentum': 0.9}
  ours = optim.make('lars', {}, form='simclr', learning_rate=schedule, **options)
  masks = {'weight_decay_mask': optim.matrices, 'trust_ratio_mask': optim.matrices}
  theirs = optax.lars(schedule, **options, **masks)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7),
    run(ours, params)[-1][0],
    run(theirs, params)[-1][0],
  )


def test_biases_and_scales_are_excluded_even_when_stacked():
  stacked = {
    'layers': {'kernel': jnp.ones([5, 2, 2]), 'bias': jnp.ones([5, 2])},
    'gain': jnp.ones(2),
  }
  assert optim.matrices(stacked) == {'layers': {'kernel': True, 'bias': False}, 'gain': False}


@pytest.mark.parametrize(
  ('name', 'exclude', 'decays'),
  [
    ('sgd', 'auto', True),
    ('sgd', 'bias_and_norm', False),
    ('adam', 'auto', True),
    ('adamw', 'auto', False),
    ('adamw', 'none', True),
    ('lars', 'auto', False),
    ('lars', 'none', True),
  ],
)
def test_which_parameters_decay(name, exclude, decays):
  params = make_params()
  tx = optim.make(name, {}, learning_rate=0.1, weight_decay=0.1, exclude_from_decay=exclude)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = jax.jit(lambda: tx.update(zero, tx.init(params), params))()
  assert (updates['projector']['kernel'] != 0).all()
  assert bool((updates['projector']['bias'] != 0).all()) == decays


def test_sgd_equals_torch():
  torch = pytest.importorskip('torch')
  start = np.asarray(make_params()['probe']['kernel'])
  for nesterov in (False, True):
    weight = torch.nn.Parameter(torch.tensor(start))
    theirs = torch.optim.SGD([weight], 0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    ours = optim.sgd(0.1, 0.01, momentum=0.9, nesterov=nesterov)
    params = {'probe': {'kernel': jnp.asarray(start)}}
    for t, (after, _) in enumerate(run(ours, params)):
      weight.grad = torch.tensor(np.asarray(make_grads(t, params)['probe']['kernel']))
      theirs.step()
      np.testing.assert_allclose(after['probe']['kernel'], weight.detach().numpy(), rtol=1e-5)


# ---------------------------------------------------------------- groups
def test_group_learning_rates_and_decay():
  params = make_params()
  plain = run(sgd(), params, 1)[0][0]
  groups = {
    'projector': Group(lr_scale=3.0),
    'probe': Group(lr=lambda step: 0.5 + step, weight_decay=0.0),
  }
  schedule = lambda step: 0.1 + step  # noqa: E731
  grouped, state = run(sgd(groups, learning_rate=schedule), params, 1)[0]
  moved = jax.tree.map(lambda a, b: a - b, plain, params)
  assert_equal(grouped['backbone'], plain['backbone'])
  expected = params['projector']['kernel'] + 3 * moved['projector']['kernel']
  np.testing.assert_allclose(grouped['projector']['kernel'], expected, rtol=1e-5)
  grads = make_grads(0, params)['probe']['kernel']
  np.testing.assert_allclose(
    grouped['probe']['kernel'], params['probe']['kernel'] - 0.5 * grads, rtol=1e-5
  )
  assert set(state.inner_states) == {'default', 'projector', 'probe'}


def test_replaced_rate_is_scaled_too():
  params = make_params()
  both = run(sgd({'probe': Group(lr=0.2, lr_scale=0.5)}), params, 1)[0][0]
  assert_equal(both, run(sgd(learning_rate=0.1), params, 1)[0][0])


def test_factors_of_names():
  options = {'learning_rate': 0.1, 'weight_decay': 0.1, 'exclude_from_decay': 'none'}
  params = make_params()
  factors = {'backbone': {'conv': 0.0}, 'projector': {'bias': 0.5}}
  found = run(optim.make('adamw', {}, False, factors, **options), params, 1)[-1][0]
  plain = run(optim.make('adamw', {}, **options), params, 1)[-1][0]
  assert_equal(found['backbone']['conv'], params['backbone']['conv'])
  plain['backbone']['conv'] = params['backbone']['conv']
  bias = params['projector']['bias']
  plain['projector']['bias'] = bias + 0.5 * (plain['projector']['bias'] - bias)
  np.testing.assert_allclose(found['projector']['bias'], plain['projector']['bias'], rtol=1e-6)
  found['projector']['bias'] = plain['projector']['bias']
  assert_equal(found, plain)


def test_weight_decay_follows_dinos_schedule():
  """`cosine_scheduler` of facebookresearch/dino; without gradient only the decay acts."""
  tx = optim.make(
    'adamw', {}, False, {}, 4, learning_rate=0.5, weight_decay=0.04, final_weight_decay=0.4
  )
  params = {'backbone': {'kernel': jnp.ones([2, 2])}}
  state, shrunk = tx.init(params), []
  for step in range(4):
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params, grad_fn=None)
    decay = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * step / 4))
    shrunk.append((-updates['backbone']['kernel'][0, 0] / 0.5, decay))
  np.testing.assert_allclose(*zip(*shrunk, strict=True), rtol=1e-6)


def test_clipping_is_that_of_dino():
  params = make_params()
  grads = make_grads(0, params)
  options = {'learning_rate': 1.0, 'momentum': 0.0}
  tx = optim.make('sgd', {}, clip_norm=0.5, **options)
  updates, _ = tx.update(grads, tx.init(params), params, grad_fn=None)

  def clipped(g):
    return -g * min(0.5 / (np.linalg.norm(g) + 1e-6), 1)

  jax.tree.map(
    lambda u, g: np.testing.assert_allclose(u, clipped(np.asarray(g)), rtol=1e-6), updates, grads
  )


def test_positions_and_tokens_can_be_left_out_of_the_decay():
  params = {'backbone': {k: jnp.ones([1, 2, 3]) for k in ('pos_embed', 'cls_token', 'kernel')}}
  options = {'learning_rate': 1.0, 'weight_decay': 0.1}
  for excluded, same in (
    ('bias_and_norm', set()),
    ('bias_norm_and_position', {'pos_embed', 'cls_token'}),
  ):
    tx = optim.make('adamw', {}, exclude_from_decay=excluded, **options)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params, grad_fn=None)
    assert {k for k, u in updates['backbone'].items() if not np.any(u)} == same


@pytest.mark.parametrize('name', ALL)
def test_frozen_group_keeps_parameters_and_state_then_starts_fresh(name):
  """As if its training began at step `freeze`, but with the learning rate of that step."""
  params = make_params()
  params['probe']['kernel'] = params['probe']['kernel'].at[0, 0].set(-0.0)
  freeze = 2
  schedule = lambda step: 0.1 * (1.0 + step)  # noqa: E731
  options = {'learning_rate': schedule, 'weight_decay': 0.1}
  groups = {'probe': Group(freeze_steps=freeze)}
  tx = optim.make(name, groups, **options)
  start = tx.init(params).inner_states['probe'].inner_state.inner
  visited = run(tx, params)
  for after, state in visited[:freeze]:
    same = np.asarray(after['probe']['kernel']).tobytes()
    assert same == np.asarray(params['probe']['kernel']).tobytes()
    inner = state.inner_states['probe'].inner_state.inner
    assert jax.tree.map(lambda x: np.asarray(x).tobytes(), inner) == jax.tree.map(
      lambda x: np.asarray(x).tobytes(), start
    )
  shifted = {**options, 'learning_rate': lambda count: schedule(count + freeze)}
  late = optim.make(name, {}, **shifted)
  state, fresh = late.init(params), params
  for t in range(freeze, STEPS):
    updates, state = late.update(make_grads(t, params), state, fresh)
    fresh = optax.apply_updates(fresh, updates)
  np.testing.assert_allclose(
    visited[-1][0]['probe']['kernel'], fresh['probe']['kernel'], rtol=1e-5, atol=1e-7
  )
  free = run(optim.make(name, {}, **options), params)
  assert_equal(visited[-1][0]['backbone'], free[-1][0]['backbone'])


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'name': 'sgdd'}, 'sgd, lars, adam, adamw'),
    ({'name': 'sgd', 'b1': 0.9}, 'momentum, nesterov'),
    ({'name': 'lars', 'form': 'x'}, "'mocov3', 'simclr', 'clipped', 'unclipped'"),
    ({'name': 'sgd', 'momentum': 1.5}, 'momentum'),
    ({'name': 'sgd', 'momentum': 0.0, 'nesterov': True}, 'nesterov=True has no effect'),
    ({'name': 'lars', 'eps': 0.1}, 'eps=0.1 has no effect unless form=clipped or unclipped'),
    ({'name': 'sgd', 'weight_decay': -1.0}, 'weight_decay'),
    (
      {'name': 'sgd', 'exclude_from_decay': 'x'},
      "'bias_and_norm', 'bias_norm_and_position', 'none'",
    ),
    ({'name': 'sgd', 'groups': {'head': Group()}}, 'backbone, projector, probe'),
    ({'name': 'sgd', 'sam': {'name': 'x'}}, "'sam', 'noise_sam'"),
    ({'name': 'sgd', 'sam': {'radius': 1.0}}, 'rho, adaptive'),
    ({'name': 'sgd', 'sam': {'rho': -1.0}}, 'rho'),
    (
      {'name': 'sgd', 'sam': {'name': 'noise_sam', 'subset': 'x'}},
      "'matrices', 'projector', 'all'",
    ),
  ],
)
def test_bad_input_names_the_choices(options, message):
  name, groups = options.pop('name'), options.pop('groups', {})
  options = {'learning_rate': 0.1, **options}
  with pytest.raises(UserError, match=message):
    optim.make(name, groups, **options).init(make_params())


def test_names():
  assert tuple(optim.names()) == ALL
