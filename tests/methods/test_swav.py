"""SwAV: prototypes that freeze and stay on the sphere, the queue's start, multi-crop, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import methods
from clr_jax.core.errors import UserError
from clr_jax.core.types import Out
from clr_jax.losses.clustering import assignments
from clr_jax.ops.random import Stream, stream
from clr_jax.plugins import PLUGINS
from tests.methods.four_images import INFO, STEP, Tiny, batch

SMALL = {'num_prototypes': 5, 'hidden_dim': 4, 'out_dim': 3}


def make(**hyper):
  return methods.factory('swav')(Tiny(), INFO, **{**SMALL, **hyper})


def lengths(params):
  return np.linalg.norm(params['prototypes']['weight'], axis=1)


@pytest.fixture(scope='module')
def start():
  method = make(queue_length=8, freeze_prototypes_steps=3)
  params, state = jax.jit(method.init)(jax.random.key(1), batch())
  _, carry = jax.jit(method.embed)(params, state, batch(), jax.random.key(0), STEP)
  return method, params, state, carry


def test_prototypes_start_as_unit_rows_and_return_to_them_unless_frozen(start):
  method, params, state, carry = start
  np.testing.assert_allclose(lengths(params), 1, rtol=1e-6)
  carry = {**carry, 'keys': jnp.zeros([2, 4, 3])}
  moved = jax.tree.map(lambda x: 1.7 * x, params)
  post_update = jax.jit(method.post_update)
  frozen, _ = post_update(moved, state, carry, 2)
  np.testing.assert_array_equal(frozen['prototypes']['weight'], moved['prototypes']['weight'])
  free, _ = post_update(moved, state, carry, 3)
  np.testing.assert_allclose(lengths(free), 1, rtol=1e-6)
  for name in ('backbone', 'projector'):
    jax.tree.map(np.testing.assert_array_equal, free[name], moved[name])
  assert method.groups['prototypes'].freeze_steps == 3


def test_the_queue_holds_unit_rows_newest_first(start):
  method, params, state, carry = start
  np.testing.assert_array_equal(state['queue'], np.zeros([2, 8, 3]))
  for i in range(3):
    keys = jnp.full([2, 4, 3], i + 1.0).at[1].mul(-1)
    _, state = method.post_update(params, state, {**carry, 'keys': keys}, STEP)
  np.testing.assert_array_equal(state['queue'][:, ::4, 0], [[3, 2], [-3, -2]])


def test_the_queue_is_used_as_many_steps_after_its_start_as_fill_it():
  method = make(queue_length=10, queue_start_epoch=1)  # 25 steps an epoch, 3 to fill it
  rng = np.random.default_rng(0)
  prototypes, z = rng.normal(size=[5, 3]), rng.normal(size=[4, 2, 3])
  out = Out(jnp.asarray(z @ prototypes.T), jnp.asarray(z), extra={'prototypes': prototypes})

  @jax.jit
  def value(queue, step):
    return method.loss(out, {'queue': queue}, batch(), None, step)[0]

  empty, full = jnp.zeros([2, 10, 3]), jnp.asarray(rng.normal(size=[2, 10, 3]))
  assert value(full, 27) == value(empty, 27)
  assert value(full, 28) != value(empty, 28)


@pytest.mark.slow
def test_local_views_predict_and_assign_nothing(start):
  method, params, state, _ = start
  out, _ = jax.jit(method.embed)(params, state, batch(3), jax.random.key(0), STEP)
  assert out.online.shape == (4, 5, 5) and out.target.shape == out.h.shape == (4, 2, 3)
  alone, _ = jax.jit(method.embed)(params, state, batch(), jax.random.key(0), STEP)
  np.testing.assert_allclose(alone.online, out.online[:, :2], rtol=1e-6)
  _, carry, _ = method.loss(out, state, batch(3), None, STEP)
  assert carry['keys'].shape == (2, 4, 3)


def test_without_a_queue_there_is_no_state_of_it():
  method = make(queue_length=0)
  params, state = jax.eval_shape(method.init, jax.random.key(0), batch())
  assert set(state) == {'batch_stats'}
  assert set(params) == {'backbone', 'projector', 'prototypes'}


def test_refusals():
  with pytest.raises(UserError, match=r'method\.queue_length >= 4'):
    make(queue_length=3)
  with pytest.raises(UserError, match='swav compares two views'):
    methods.factory('swav')(Tiny(), INFO._replace(num_views=3), **SMALL)


@pytest.mark.slow
def test_extrapolated_embeddings_predict_plain_assignments(x64):
  """Feature transformation before the prototypes, by hand: SwAV's loss of moved scores."""
  rng = np.random.default_rng(0)
  z, prototypes = rng.normal(size=[4, 2, 3]), rng.normal(size=[5, 3])
  unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
  local = rng.normal(size=[4, 1, 5])
  scores = np.concatenate([unit @ prototypes.T, local], 1)
  extra = {'prototypes': jnp.asarray(prototypes), 'projector': jnp.asarray(z)}
  out = Out(jnp.asarray(scores), jnp.asarray(z), extra=extra)
  plugin = PLUGINS.make('feature_transformation', INFO, positive='batch')
  method = make(queue_length=0, plugins={'feature_transformation': plugin})
  value, *_ = method.loss(out, {}, batch(), jax.random.key(1), STEP)

  moved = plugin.move_pair(
    stream(jax.random.key(1), Stream.MOVED_PAIR), unit[:, :1], unit[:, 1:], STEP
  )
  lam = (moved[0][0, 0, 0] - unit[0, 1, 0]) / (unit[0, 0, 0] - unit[0, 1, 0])
  assert 1 < lam < 2
  hard = [lam * unit[:, v] + (1 - lam) * unit[:, 1 - v] for v in range(2)]
  hard = np.concatenate([np.stack(hard, 1) @ prototypes.T, local], 1) / 0.1
  log_p = hard - np.log(np.exp(hard).sum(-1, keepdims=True))
  codes = np.asarray(assignments(jnp.asarray(scores[:, :2])))
  pairs = [
    -(codes[:, i] * log_p[:, v]).sum(-1).mean() for i in range(2) for v in range(3) if i != v
  ]
  np.testing.assert_allclose(value, np.mean(pairs), rtol=1e-12)


def test_plugins_on_scores_of_pairs_are_refused():
  plugin = PLUGINS.make('margin', INFO, subtractive=0.1)
  with pytest.raises(UserError, match=r'no scores of pairs: switch plugins\.margin off'):
    make(plugins={'margin': plugin})
  plugin = PLUGINS.make('feature_transformation', INFO, negative='batch')
  with pytest.raises(UserError, match='swav has no negatives to mix'):
    make(plugins={'feature_transformation': plugin})
