"""Forms of losses that only the documents have, against their formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.core.types import Batch, Out
from tests.golden.check_distillation import NO_NETWORK, make_method

B, D, K, T = 4, 3, 6, 0.25
RNG = np.random.default_rng(0)
Z, TARGET = RNG.normal(size=[2, B, 2, D])
ROWS = RNG.normal(size=[K, D])


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def loss_of(method, out, state, index=None):
  out = jax.tree.map(jnp.asarray, out)
  return method.loss(out, state, Batch(index=index), jax.random.key(0), jnp.zeros([], int))


def eq_6(positive, negatives, beta):
  """-s_p / T + beta log(exp(s_p / T) + sum exp(s_n / T)), eq. 6 of the margins paper."""
  s = np.array([positive, *negatives]) / T
  return -s[0] + beta * np.log(np.exp(s).sum())


@pytest.mark.slow
@pytest.mark.parametrize('beta', [0.3, pytest.param(0.0, marks=pytest.mark.slow)])
def test_beta_of_simclr_moco_v3_and_moco(beta, x64):
  z, target, rows = unit(Z), unit(TARGET), unit(ROWS)
  flat = z.reshape(-1, D)
  each = [
    eq_6(flat[a] @ flat[a ^ 1], [flat[a] @ flat[n] for n in range(2 * B) if n // 2 != a // 2], beta)
    for a in range(2 * B)
  ]
  simclr = make_method('simclr', batch_size=B, temperature=T, beta=beta)
  np.testing.assert_allclose(loss_of(simclr, Out(Z), NO_NETWORK)[0], np.mean(each), rtol=1e-12)

  def one_way(v):
    return [
      eq_6(
        z[b, v] @ target[b, 1 - v], [z[b, v] @ target[n, 1 - v] for n in range(B) if n != b], beta
      )
      for b in range(B)
    ]

  for scale, expected in ((None, 2 * T), (1.0, 1.0)):
    method = make_method('moco_v3', batch_size=B, temperature=T, beta=beta, loss_scale=scale)
    wanted = expected * (np.mean(one_way(0)) + np.mean(one_way(1)))
    np.testing.assert_allclose(loss_of(method, Out(Z, TARGET), NO_NETWORK)[0], wanted, rtol=1e-12)

  queue = {**NO_NETWORK, 'queue': {'rows': jnp.asarray(rows), 'ptr': jnp.int32(0)}}
  moco = make_method('moco', batch_size=B, temperature=T, beta=beta, queue_length=K, out_dim=D)
  each = [eq_6(z[b, 0] @ target[b, 1], z[b, 0] @ rows.T, beta) for b in range(B)]
  out = Out(Z[:, :1], TARGET[:, 1:])
  np.testing.assert_allclose(loss_of(moco, out, queue)[0], np.mean(each), rtol=1e-12)


def test_simclr_of_pairs_needs_two_views_and_no_anchor():
  with pytest.raises(
    UserError, match=r'method\.include_anchor=True has no effect with method\.beta'
  ):
    make_method('simclr', batch_size=B, beta=0.5, include_anchor=True)
  with pytest.raises(UserError, match=r'method\.beta need all scores at once'):
    make_method('simclr', batch_size=B, beta=0.5, block_size=4)


@pytest.mark.slow
def test_dynamic_moco_in_one_direction(x64):
  """Algorithm 1: the query is of view 0, the key of view 1; SogCLR on (l_pos, l_neg), one u."""
  gamma, n = 0.9, 9
  method = make_method(
    'dynamic_moco',
    batch_size=B,
    num_examples=n,
    queue_length=K,
    out_dim=D,
    temperature=T,
    gamma=gamma,
    symmetric=False,
  )
  index, u = np.array([3, 0, 7, 5]), RNG.uniform(1, 2, n)
  log_u = jnp.full([1024], -jnp.inf).at[:n].set(jnp.log(u)).at[7].set(-jnp.inf)  # 7 is new
  state = {
    **NO_NETWORK,
    'queue': {'rows': jnp.asarray(unit(ROWS)), 'ptr': jnp.int32(0)},
    'per_example': {'log_u': log_u},
  }
  out = Out(jnp.asarray(Z[:, :1]), jnp.asarray(TARGET[:, 1:]))

  def value(online):
    loss, carry, _ = loss_of(method, out._replace(online=online), state, index)
    return loss, carry

  (_, carry), grad = jax.value_and_grad(value, has_aux=True)(out.online)

  q, k = unit(Z[:, 0]), unit(TARGET[:, 1])
  g = np.exp(q @ unit(ROWS).T / T)
  new = np.where(index == 7, g.mean(1), (1 - gamma) * u[index] + gamma * g.mean(1))
  np.testing.assert_allclose(np.exp(carry['per_example']['log_u']), new, rtol=1e-12)
  # The gradient of mean g / u l_neg - l_pos, with constant weights g / u.
  of_unit = ((g / new[:, None] / K) @ unit(ROWS) - k) / B
  length = np.linalg.norm(Z[:, 0], axis=-1, keepdims=True)
  expected = (of_unit - q * (q * of_unit).sum(-1, keepdims=True)) / length
  np.testing.assert_allclose(grad[:, 0], expected, rtol=1e-9)

  statistics = {'batch_stats': {}, 'target_stats': {}}
  _, after = method.post_update({}, state, {**statistics, **carry}, jnp.zeros([], int))
  np.testing.assert_allclose(after['queue']['rows'], [*k, *unit(ROWS)[B:]], rtol=1e-12)
  with pytest.raises(UserError, match='writes 4 keys a step'):
    make_method('dynamic_moco', batch_size=B, queue_length=3, symmetric=False)
