"""iSogCLR beside SogCLR, REAL beside Dynamic MoCo: where they agree, and what each refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.core.types import Out
from tests.golden.check_distillation import NO_NETWORK, make_method, method_step

B, D, K = 4, 5, 11  # a queue that two keys an image do not divide


def outputs(step):
  rng = np.random.default_rng(step)
  return Out(*(1 + rng.normal(size=(B, 2, D)).astype('float32') for _ in range(2)))


def index_of(step):
  return np.random.default_rng(step).permutation(9)[:B]


def first_state(name, **hyper):
  """State that `Method.init` adds to the networks' state, with a fixed queue."""
  state = {**NO_NETWORK, 'per_example': {'log_u': jnp.full([1024], -jnp.inf)}}
  if name == 'isogclr':
    start = {'temperature': hyper.get('temperature', 0.1), 'momentum': 0.0}
    tables = {k: jnp.full([1024], v) for k, v in start.items()}
    state['per_example'] = {**state['per_example'], **tables}
  elif name != 'sogclr':
    rows = jax.random.normal(jax.random.key(0), [K, D])
    rows = rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
    state['queue'] = {'rows': rows, 'ptr': jnp.int32(0)}
  if hyper.get('retrieval') == 'radius':
    state['radius'] = jnp.float32(hyper.get('radius', 0.5))
  return state


def run(name, **hyper):
  """Loss, gradient and state of each of four steps."""
  size = {'queue_length': K, 'out_dim': D} if name in ('real', 'dynamic_moco') else {}
  method = make_method(name, batch_size=B, num_examples=9, **size, **hyper)
  step, state, history = method_step(method), first_state(name, **hyper), []
  for t in range(4):
    out = outputs(t) if size else Out(outputs(t).online)
    value, grad, state = step(out, state, t, index_of(t))
    history.append((value, grad.online, state))
  return history


def same_until(one, other):
  for a, b in zip(one, other, strict=True):
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(a[1], b[1], rtol=1e-4, atol=1e-6)
    for key in ('per_example', 'queue'):
      for name in b[2].get(key, {}):
        np.testing.assert_allclose(a[2][key][name], b[2][key][name], rtol=1e-5, atol=1e-6)


def test_isogclr_without_a_step_size_is_sogclr():
  one = run('isogclr', eta=0.0, temperature=0.2)
  same_until(one, run('sogclr', temperature=0.2))
  np.testing.assert_array_equal(one[-1][2]['per_example']['temperature'], np.float32(0.2))


def test_isogclr_moves_the_temperatures_of_the_batch_only():
  *_, (_, _, before), (_, _, after) = run('isogclr', eta=0.1)
  before, after = (np.asarray(x['per_example']['temperature']) for x in (before, after))
  moved = np.flatnonzero(before != after)
  assert len(moved) and set(moved) <= set(index_of(3))
  assert (after >= np.float32(0.05)).all() and (after <= np.float32(0.7)).all()


@pytest.mark.parametrize(
  'hyper', [{'retrieval': 'top_p', 'top_p': 1.0}, {'retrieval': 'top_k', 'top_k': K}]
)
def test_real_that_keeps_all_is_dynamic_moco(hyper):
  same_until(run('real', **hyper), run('dynamic_moco'))
  if 'top_k' in hyper:
    fewer = run('real', retrieval='top_k', top_k=3)
    assert abs(fewer[0][0] - run('dynamic_moco')[0][0]) > 1e-3


@pytest.mark.parametrize('as_published', [False, True])
def test_only_selected_keys_enter_the_queue(as_published):
  """Keys of each view near a query; the loss does not change with the selection of its step."""
  history = run('real', retrieval='radius', radius=0.3, as_published=as_published)
  reference = run('dynamic_moco')
  np.testing.assert_allclose(history[0][0], reference[0][0], rtol=1e-6)
  ptr, rows = 0, np.array(first_state('real')['queue']['rows'])
  radius, counts = 0.3, []
  for t, (_, _, state) in enumerate(history):
    out = outputs(t)
    for v in range(2):
      q, k = out.online[:, v], out.target[:, 1 - v]
      q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
      distance = np.linalg.norm(q[:, None] - k[None], axis=-1)
      compared = np.ones([B, B], bool) if as_published else ~np.eye(B, dtype=bool)
      near = (distance <= 2 * radius) & compared
      order = [j for j in np.argsort(np.where(near.any(0), near.argmax(0), B), kind='stable')]
      order = [j for j in order if near[:, j].any()] or list(range(B))
      counts.append(len(order))
      for j in order:
        rows[ptr % K] = k[j]
        ptr += 1
      radius = distance[compared].sum() / (B * D if as_published else B * (B - 1)) / 2
    np.testing.assert_allclose(state['queue']['rows'], rows, atol=1e-5)
    assert int(state['queue']['ptr']) == ptr % K
    np.testing.assert_allclose(state['radius'], radius, rtol=1e-4)
  assert min(counts) < B, 'nothing was left out: the test shows nothing'


@pytest.mark.parametrize(
  'name, hyper, message',
  [
    ('isogclr', {'temperature': 0.04}, 'temperature_min'),
    ('real', {'retrieval': 'top_k', 'top_k': K + 1}, 'method.top_k=12 exceeds the queue'),
    ('real', {'queue_length': 7}, 'real writes 8 keys.*queue_length >= 8'),
  ],
)
def test_what_has_no_meaning_is_refused(name, hyper, message):
  size = {'queue_length': K} if name in ('real', 'dynamic_moco') else {}
  with pytest.raises(UserError, match=message):
    make_method(name, batch_size=B, **{**size, **hyper})


@pytest.mark.parametrize('name', ['sogclr', 'isogclr', 'real'])
def test_one_image_has_no_negatives(name):
  with pytest.raises(UserError, match='batch_size >= 2'):
    make_method(name, batch_size=1)
