"""SAM and noise-SAM around an optimizer; the golden archives hold the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax.core.errors import UserError
from clr_jax.core.types import Group
from clr_jax.optim._sam import uniform_noise
from tests.optim.small import OTHER_NORMS, SAMS, assert_equal, make_params, run, sgd


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
