"""The loss between two modalities: its gradient, schemes, state. The numbers: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.losses import bimodal
from clr_jax.losses.bimodal import init_state
from tests.losses._cases import compiled

bimodal_sogclr = compiled(bimodal.bimodal_sogclr)

INDEX = jnp.array([3, 0, 6, 2, 7])


def pairs(seed=0, size=5, dtype=float):
  z = np.random.default_rng(seed).normal(size=(2, size, 4))
  return tuple(jnp.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True), dtype))


def wide(state):
  return jax.tree.map(lambda x: x.astype(jnp.float64), state)


@pytest.mark.slow
def test_gradient_of_the_log_partition_on_the_first_visit(x64):
  """u is the batch's own g: the gradient is that of T log mean exp(H/T), mean over both sides."""
  z, t = pairs(), 0.3

  @jax.jit
  def expected(z):
    scores = z[0] @ z[1].T
    other = ~np.eye(5, dtype=bool)
    total = 0.0
    for s in (scores, scores.T):
      h = jnp.where(other, (s - jnp.diagonal(s)[:, None]) / t, -jnp.inf)
      total += t * (jax.nn.logsumexp(h, -1) - jnp.log(4)).mean() / 2
    return total

  def loss(z, **options):
    return bimodal_sogclr(*z, INDEX, wide(init_state(8)), temperature=t, **options)

  for options, factor in (({'mean_negatives': True}, 1), ({}, 4)):
    grads = jax.jit(jax.grad(lambda z, o=options: loss(z, **o).loss))(z)
    for a, b in zip(grads, jax.jit(jax.grad(expected))(z), strict=True):
      np.testing.assert_allclose(a, factor * b, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(loss(z).objective, expected(z), rtol=1e-12)


@pytest.mark.slow
def test_sides_are_exchangeable():
  z_a, z_b = pairs(dtype=jnp.float32)
  one = bimodal_sogclr(z_a, z_b, INDEX, init_state(8))
  other = bimodal_sogclr(z_b, z_a, INDEX, init_state(8))
  np.testing.assert_allclose(one.loss, other.loss, rtol=1e-4)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), one.state['a'], other.state['b']
  )


@pytest.mark.slow
@pytest.mark.parametrize('scheme', ['global_constant', 'individual_learnable'])
def test_state_of_other_pairs_stays_and_shifts_never_fall(scheme):
  state = init_state(8, scheme=scheme)
  options = {'scheme': scheme, 'eta': 100.0, 'temperature_range': (0.01, 0.02)}
  for t in range(4):
    index = INDEX[: 2 + t % 2]
    new = bimodal_sogclr(*pairs(t, len(index), jnp.float32), index, state, **options).state
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for side in 'ab':
      assert (new[side]['shift'] >= state[side]['shift']).all()
      for name, table in new[side].items():
        assert np.isfinite(table[index]).all() and table.dtype == jnp.float32
        np.testing.assert_array_equal(
          np.delete(table, index), np.delete(np.asarray(state[side][name]), index)
        )
      if 'temperature' in new[side]:
        own = new[side]['temperature'][index]
        assert ((np.float32(0.01) <= own) & (own <= np.float32(0.02))).all()
    state = new


@pytest.mark.slow
def test_a_pair_that_is_twice_in_the_batch(x64):
  """The stored u is the mean of both rows' u, whatever the shifts; the order does not matter."""
  z_a, z_b = pairs()
  index = jnp.array([3, 0, 3, 2, 7])

  def u(state, i, side):
    return np.exp(state[side]['log_u'] + state[side]['shift'])[i]

  single = bimodal_sogclr(z_a, z_b, INDEX, wide(init_state(8)), temperature=0.1).state
  double = bimodal_sogclr(z_a, z_b, index, wide(init_state(8)), temperature=0.1).state
  order = jnp.array([2, 4, 0, 1, 3])
  turned = bimodal_sogclr(
    z_a[order], z_b[order], index[order], wide(init_state(8)), temperature=0.1
  ).state
  for side in 'ab':
    mean = (u(single, 3, side) + u(single, 6, side)) / 2
    np.testing.assert_allclose(u(double, 3, side), mean, rtol=1e-10)
    np.testing.assert_allclose(u(turned, 3, side), mean, rtol=1e-10)


@pytest.mark.slow
def test_a_global_temperature_learns_only_where_asked():
  z, state = pairs(dtype=jnp.float32), init_state(8)

  def grad(scheme):
    return jax.grad(lambda t: bimodal_sogclr(*z, INDEX, state, scheme=scheme, temperature=t).loss)(
      0.05
    )

  assert grad('global_constant') == 0 and grad('global_learnable') >= 6  # rho + mean u


@pytest.mark.slow
def test_finite_at_temperature_0_001():
  z = pairs(dtype=jnp.float32)
  state = init_state(8)
  for _ in range(2):
    value, grad = jax.value_and_grad(
      lambda z, s=state: bimodal_sogclr(*z, INDEX, s, temperature=1e-3).loss
    )(z)
    state = bimodal_sogclr(*z, INDEX, state, temperature=1e-3).state
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grad)
    assert all(np.isfinite(x[INDEX]).all() for x in jax.tree.leaves(state))


@pytest.mark.slow
@pytest.mark.parametrize(
  'start, options, message',
  [
    ({}, {'scheme': 'global'}, 'global_constant'),
    ({}, {'scheme': 'individual_learnable'}, 'init_state'),
    ({'scheme': 'individual_learnable'}, {}, 'init_state'),
    ({}, {'scheme': 'global_learnable'}, '`temperature`'),
    (
      {'scheme': 'individual_learnable'},
      {'scheme': 'individual_learnable', 'temperature': 0.1},
      'init_state',
    ),
  ],
)
def test_what_has_no_meaning_is_refused(start, options, message):
  with pytest.raises(UserError, match=message):
    bimodal_sogclr(*pairs(dtype=jnp.float32), INDEX, init_state(8, **start), **options)


@pytest.mark.slow
def test_one_pair_or_two_shapes_are_refused():
  z = jnp.ones([2, 3])
  for other, index in ((z[:1], INDEX[:2]), (z[:, :2], INDEX[:2])):
    with pytest.raises(UserError, match='B >= 2'):
      bimodal_sogclr(z, other, index, init_state(8))
  with pytest.raises(UserError, match='B >= 2'):
    bimodal_sogclr(z[:1], z[:1], INDEX[:1], init_state(8))
