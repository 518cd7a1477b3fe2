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
from clr_jax.optim._sam import uniform_noise

STEPS = 4
ALL = ('sgd', 'lars', 'adam', 'adamw')
SAMS = ({}, {'rho': 0.1}, {'rho': 1.0, 'adaptive': True}, {'name': 'noise_sam', 'eps': 0.1})
OTHER_NORMS = ({'rho': 0.1, 'norm': 'inf'}, {'rho': 0.1, 'norm': '1'})


def make_params(seed=0, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(seed), 4)
  return {
    'backbone': {
      'conv': {'kernel': jax.random.normal(keys[0], [3, 3, 2, 4], dtype)},
      'norm': {'scale': jnp.ones([4], dtype), 'bias': jnp.zeros([4], dtype)},
    },
    'projector': {'kernel': jax.random.normal(keys[1], [4, 3], dtype), 'bias': jnp.ones(3, dtype)},
    'probe': {'kernel': jax.random.normal(keys[2], [4, 2], dtype)},
  }


def make_grads(t, params):
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.fold_in(jax.random.key(9), t), len(leaves))
  return tree.unflatten(
    [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
  )


def run(tx, params, num_steps=STEPS):
  """Given gradients that do not depend on the parameters; all states and parameters visited."""
  update = jax.jit(functools.partial(tx.update, grad_fn=lambda p, i: make_grads(7, p)))
  state, visited = tx.init(params), []
  for t in range(num_steps):
    updates, state = update(make_grads(t, params), state, params)
    params = optax.apply_updates(params, updates)
    visited.append((params, state))
  return visited


def assert_equal(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def sgd(groups=None, **options):
  options = {'learning_rate': 0.1, 'weight_decay': 0.01, **options}
  return optim.make('sgd', groups or {}, **options)


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


# ---------------------------------------------------------------- SAM
def loss(params):
  return sum(jnp.sum(jnp.sin(3 * x)) for x in jax.tree.leaves(params))


def one_sam_step(params, groups, sam, objective=loss):
  """Parameters after one step, and the point of the second gradient."""
  tx = sgd(groups, sam=sam)
  points = []

  def grad_fn(p, _):
    points.append(p)
    return jax.grad(objective)(p)

  updates, _ = tx.update(jax.grad(objective)(params), tx.init(params), params, grad_fn=grad_fn)
  return optax.apply_updates(params, updates), points[0]


def test_sam_without_radius_is_the_base():
  params = make_params()
  tx = sgd()
  updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params)
  assert_equal(one_sam_step(params, {}, {'rho': 0.0})[0], optax.apply_updates(params, updates))


@pytest.mark.parametrize('norm', ['inf', '1'])
def test_sam_in_other_norms_climbs_fastest(norm):
  """Holder: <g, delta> = rho |g|_q for 1 / p + 1 / q = 1, and |delta|_p = rho."""
  params = make_params()
  flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(float)  # noqa: E731
  _, point = one_sam_step(params, {}, {'rho': 0.125, 'norm': norm})
  delta, gradient = flat(point) - flat(params), flat(jax.grad(loss)(params))
  p, q = (np.inf, 1) if norm == 'inf' else (1, np.inf)
  assert np.linalg.norm(delta, p) == pytest.approx(0.125, rel=1e-5)
  assert delta @ gradient == pytest.approx(0.125 * np.linalg.norm(gradient, q), rel=1e-5)


def test_sam_shares_the_1_norm_among_equal_gradients():
  params = {'a': jnp.zeros(2), 'b': jnp.zeros(1)}
  slope = {'a': jnp.array([2.0, -1.0]), 'b': jnp.array([-2.0])}
  point = one_sam_step(
    params,
    {},
    {'rho': 1.0, 'norm': '1'},
    lambda p: sum(jnp.vdot(slope[k], p[k]) for k in p),
  )[1]
  np.testing.assert_allclose(point['a'], [0.5, 0])
  np.testing.assert_allclose(point['b'], [-0.5])


def test_sam_radius_is_the_global_norm():
  params = make_params()
  _, point = one_sam_step(params, {}, {'rho': 0.2})
  delta = jax.tree.map(jnp.subtract, point, params)
  np.testing.assert_allclose(optax.tree.norm(delta), 0.2, rtol=1e-5)


@pytest.mark.parametrize('sam', [*SAMS[1:], *OTHER_NORMS], ids=str)
def test_no_sam_group_is_invisible_to_the_others(sam):
  """The encoder's update has the same bits with the probe, without it, or with one of huge norm."""
  params = make_params()
  groups = {'probe': Group(no_sam=True)}
  after, point = one_sam_step(params, groups, sam)
  assert_equal(point['probe'], params['probe'])
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), point, params)
  assert any(jax.tree.leaves(moved))
  encoder = {k: v for k, v in params.items() if k != 'probe'}
  without, _ = one_sam_step(encoder, {}, sam)
  loud, _ = one_sam_step(params, groups, sam, lambda p: loss(p) + 1e4 * p['probe']['kernel'].sum())
  for other in (without, loud):
    assert_equal({k: after[k] for k in encoder}, {k: other[k] for k in encoder})


@pytest.mark.parametrize('sam', [*SAMS[1:3], *OTHER_NORMS], ids=str)
def test_sam_with_zero_gradient_is_finite(sam):
  params = make_params()
  after, point = one_sam_step(params, {}, sam, lambda p: 0.0 * loss(p))
  assert_equal(point, params)
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(after))


# ---------------------------------------------------------------- noise-SAM
@pytest.mark.parametrize('subset', ['matrices', 'projector', 'all'])
def test_noise_subset_and_range(subset):
  params = make_params()
  _, point = one_sam_step(params, {}, {'name': 'noise_sam', 'eps': 0.5, 'subset': subset})
  delta = jax.tree.map(jnp.subtract, point, params)
  for path, x in jax.tree_util.tree_leaves_with_path(delta):
    first, last = path[0].key, path[-1].key
    chosen = {'matrices': last == 'kernel', 'projector': first == 'projector', 'all': True}[subset]
    assert bool((x != 0).any()) == chosen, path
    assert (jnp.abs(x) <= 0.5 + 1e-6).all()


def test_noise_changes_with_step_and_seed_only():
  params = make_params()
  points = []

  def visit(seed):
    tx = sgd(sam={'name': 'noise_sam', 'eps': 0.5, 'seed': seed})
    state = tx.init(params)
    for _ in range(2):
      _, state = tx.update(
        params, state, params, grad_fn=lambda p, _: points.append(p) or jax.grad(loss)(p)
      )

  for seed in (0, 0, 1):
    visit(seed)
  first, second, again, _, other, _ = (p['probe']['kernel'] for p in points)
  assert_equal(first, again)
  assert (first != second).all()
  assert (first != other).all()


def test_relative_noise_scales_with_the_tensor():
  big = {'a': jnp.full([40, 40], 30.0)}
  noise = uniform_noise(jax.random.key(0), big, {'a': True}, eps=0.1, relative=True)['a']
  assert 2.9 < float(jnp.abs(noise).max()) <= 3.0
  assert abs(float(noise.mean())) < 0.2


def test_noise_does_not_use_the_clean_gradient():
  params = make_params()
  tx = sgd(sam={'name': 'noise_sam'})
  nan = jax.tree.map(lambda x: x * jnp.nan, params)
  grad_fn = lambda p, _: jax.grad(loss)(p)  # noqa: E731
  updates, _ = tx.update(nan, tx.init(params), params, grad_fn=grad_fn)
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(updates))


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'name': 'sgdd'}, 'sgd, lars, adam, adamw'),
    ({'name': 'sgd', 'b1': 0.9}, 'momentum, nesterov'),
    ({'name': 'lars', 'form': 'x'}, "'mocov3', 'simclr', 'clipped', 'unclipped'"),
    ({'name': 'sgd', 'momentum': 1.5}, 'momentum'),
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


def test_noise_on_a_missing_projector():
  params = {'backbone': make_params()['backbone']}
  with pytest.raises(UserError, match='projector'):
    one_sam_step(params, {}, {'name': 'noise_sam', 'subset': 'projector'})


def test_options_of_another_sam_may_be_there_but_not_changed():
  params = make_params()
  default = {'rho': 0.05, 'adaptive': False, 'eps': 1e-5, 'subset': 'matrices', 'seed': 0}
  off = sgd(sam={'name': 'none', **default})
  assert_equal(run(off, params, 1)[0], run(sgd(), params, 1)[0])
  chosen = one_sam_step(params, {}, {**default, 'rho': 0.1})
  assert_equal(chosen, one_sam_step(params, {}, {'rho': 0.1}))
  for options, message in (
    ({'name': 'none', 'rho': 0.1}, 'sam.rho=0.1 has no effect unless sam.name=sam'),
    ({'name': 'sam', 'eps': 0.1}, 'sam.eps=0.1 has no effect unless sam.name=noise_sam'),
    ({'name': 'noise_sam', 'adaptive': True}, 'sam.adaptive=True has no effect'),
  ):
    with pytest.raises(UserError, match=message):
      sgd(sam={**default, **options})


def test_names():
  assert tuple(optim.names()) == ALL
