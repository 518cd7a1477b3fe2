"""Work on many arrays in few kernels equals work array by array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import optim
from clr_jax.core.types import Group
from clr_jax.ops import many_arrays


def arrays(shapes, seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


# Sizes: below a row, whole rows, rows and a part; no elements; more than one kernel's.
SHAPES = [(3, 3, 4, 8), (1024,), (2, 2048), (33, 100), (), (0, 5), *[(7,)] * 90]


def test_norms():
  leaves = arrays(SHAPES)
  want = [np.linalg.norm(np.asarray(x, np.float64).ravel()) for x in leaves]
  for joined in (False, True):
    found = jax.jit(lambda xs, joined=joined: many_arrays.norms(xs, joined=joined))(leaves)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    found = many_arrays.global_norm({'a': leaves}, joined=joined)
    np.testing.assert_allclose(found, np.linalg.norm(want), rtol=1e-6)


def test_updates_keep_their_bits():
  params, updates = (dict(enumerate(arrays(SHAPES, seed))) for seed in (0, 1))
  params[0] = params[0].astype(jnp.bfloat16)
  together, alone = (many_arrays.apply_updates(params, updates, joined=j) for j in (True, False))
  for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_kernels_side_by_side_keep_their_bits():
  """And so do their gradients: in their own dtypes, whatever else the tree holds."""
  kernels = dict(enumerate(arrays([(3, 3, 4, 8), (3, 3, 4, 8), (1, 1, 4, 8), (4, 8), (8,), ()])))
  kernels[1] = kernels[1].astype(jnp.bfloat16)

  def total(tree):
    return sum(jnp.sum(jnp.sin(x).astype(jnp.float32)) for x in jax.tree.leaves(tree))

  found = jax.jit(lambda tree: many_arrays.row_major(many_arrays.side_by_side(tree)))(kernels)
  slopes = jax.jit(jax.grad(lambda tree: total(many_arrays.side_by_side(tree))))(kernels)
  expected = jax.jit(jax.grad(total))(kernels)
  for a, b in zip(
    jax.tree.leaves((found, slopes)), jax.tree.leaves((kernels, expected)), strict=True
  ):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize('form', ['mocov3', 'simclr', 'clipped', 'unclipped'])
def test_lars(form):
  shapes = {'w': (3, 3, 4, 8), 'v': (33, 100), 'zero': (4, 4), 'bias': (8,)}
  params, grads = (dict(zip(shapes, arrays(shapes.values(), s), strict=True)) for s in (0, 1))
  params['zero'] = jnp.zeros([4, 4])
  found = []
  for joined in (False, True):
    groups = {'v': Group(lr=0.2)}
    tx = optim.make('lars', groups, joined, learning_rate=0.1, weight_decay=1e-3, form=form)
    updates, _ = tx.update(grads, tx.init(params), params)
    found.append(updates)
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-6)
  assert float(jnp.abs(found[0]['w']).max()) > 0
