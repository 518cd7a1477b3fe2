"""Checker for the selection of keys (archive a_real_select): by the function and by the method."""

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.core.types import Out
from clr_jax.losses.retrieval import select_in_radius
from tests.golden.check_distillation import NO_NETWORK, make_method, method_step, views


def a_real_select(case, close):
  select = jax.jit(select_in_radius, static_argnames='as_published')
  kept = []
  radius = jnp.asarray(case.radius_before[0])
  for t, (q, k) in enumerate(zip(case.q, case.k, strict=True)):
    close(radius, case.radius_before[t], f'radius_before {t}')
    order, count, radius = select(q, k, radius, as_published=True)
    close(radius, case.radius_after[t], f'radius_after {t}')
    expected = case.order[t][: case.order_len[t]]
    np.testing.assert_array_equal(order[:count], expected, f'order {t}')
    np.testing.assert_array_equal(np.isin(np.arange(len(k)), order[:count]), case.mask[t])
    kept.append(k[expected])
  _through_the_method(case, kept, close)


def _through_the_method(case, kept, close):
  """A step of the method has two views: calls 0 and 1 of the archive, 2 and 3, ..."""
  batch_size, dim = case.q.shape[1:]
  length = 2 * batch_size + 1  # wraps around
  method = make_method(
    'real',
    batch_size=batch_size,
    queue_length=length,
    out_dim=dim,
    retrieval='radius',
    as_published=True,
  )
  step, dtype = method_step(method), case.q.dtype
  rows = np.zeros([length, dim], dtype)
  rows[:, 0] = 1
  state = {
    **NO_NETWORK,
    'per_example': {'log_u': jnp.full([1024], -jnp.inf, dtype)},
    'queue': {'rows': jnp.asarray(rows), 'ptr': jnp.zeros([], jnp.int32)},
    'radius': jnp.asarray(case.radius_before[0]),
  }
  ptr = 0
  for t in range(0, len(case.q) - 1, 2):
    # A query's key is the other view's output.
    out = Out(views(case.q[t], case.q[t + 1]), views(case.k[t + 1], case.k[t]))
    _, _, state = step(out, state, t // 2, np.arange(batch_size))
    close(state['radius'], case.radius_after[t + 1], f'radius of the method {t}')
    for key in np.concatenate(kept[t : t + 2]):
      rows[ptr] = key
      ptr = (ptr + 1) % length
    close(state['queue']['rows'], rows, f'queue {t}')
    assert int(state['queue']['ptr']) == ptr
