"""Train states of a few arrays, and checkpoints of them."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clr_jax.core.types import TrainState
from clr_jax.rundir.checkpoint import Checkpoints

TX = optax.chain(optax.trace(0.9), optax.scale_by_adam())


def sharded(tree, devices=8):
  """Tables by rows, all else replicated, over so many devices."""
  mesh = Mesh(np.array(jax.devices()[:devices]), ('data',))

  def of(path, _):
    rows = any(getattr(p, 'key', None) == 'per_example' for p in path)
    return NamedSharding(mesh, PartitionSpec('data') if rows else PartitionSpec())

  return jax.tree_util.tree_map_with_path(of, tree)


def make_state(seed=0, width=4):
  key = jax.random.key(seed)
  params = {
    'backbone': {'kernel': jax.random.normal(key, (3, width)), 'scale': jnp.ones(width)},
    'projector': {'kernel': jnp.ones((width, 2), jnp.bfloat16)},
  }
  state = {
    'batch_stats': {'backbone': {'mean': jnp.full(width, 0.5)}},
    'per_example': {'log_u': jnp.full(1024, -jnp.inf).at[3].set(1 / 3)},
    'queue': {'ptr': jnp.int32(5)},
  }
  made = TrainState(jnp.int32(7), params, state, TX.init(params), jax.random.fold_in(key, 1))
  return jax.device_put(made, sharded(made))


def abstract(state, devices=8):
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, sharded(state, devices)
  )


def raw(x):
  is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return np.asarray(jax.random.key_data(x) if is_key else x)


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(raw(a), raw(b))


def saved(path, steps, **options):
  state = make_state()
  with Checkpoints(path, **options) as checkpoints:
    for step in steps:
      assert checkpoints.save(step, state.replace(step=jnp.int32(step)))
  return state


def truncate(folder):
  """Half of every file that holds numbers."""
  for file in (pathlib.Path(folder) / 'state').rglob('d/*'):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
