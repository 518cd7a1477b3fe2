"""Losses over blocks of columns: the plain losses, without their memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.losses.contrastive import ntxent, supcon, tcl
from clr_jax.losses.global_contrastive import sogclr
from clr_jax.ops import sharding

GIB = 2**30


def views(count):
  return jax.random.normal(jax.random.key(3), [12, count, 5])


def of_sogclr(z, *, block_size):
  log_u = jnp.where(jnp.arange(len(z)) % 3 == 0, -jnp.inf, jnp.linspace(-2.0, 3.0, len(z)))
  result = sogclr(z, log_u, temperature=0.05, gamma=0.6, block_size=block_size)
  return result.per_example, result.log_u, result.objective


LABELS = jnp.array([0, 0, 0, 1, 1, 2, 3, 3, 0, 1, 4, 5])  # 2, 4 and 5 have one image
LOSSES = {
  'ntxent': (2, functools.partial(ntxent, temperature=0.02)),
  'ntxent of three views': (3, functools.partial(ntxent, temperature=0.5)),
  'supcon': (2, functools.partial(supcon, labels=LABELS)),
  'supcon of one view': (1, functools.partial(supcon, labels=LABELS)),
  'supcon of one anchor': (2, functools.partial(supcon, labels=LABELS, anchors='one')),
  'supcon of views': (2, functools.partial(supcon, base_temperature=0.07)),
  'supcon of one class': (2, functools.partial(supcon, labels=jnp.zeros(12, int))),
  'tcl': (2, functools.partial(tcl, labels=LABELS, k1=5000.0, k2=1.5)),
  'tcl of triplets': (3, functools.partial(tcl, k1=1.0, k2=1.5)),
  'tcl as supcon': (1, functools.partial(tcl, labels=LABELS, k1=0.0)),
  'sogclr': (2, of_sogclr),
}


FAST = ('ntxent of three views', 'supcon of one anchor', 'tcl', 'sogclr')  # one of each loss


@pytest.mark.parametrize(
  ('name', 'block_size'),
  [
    *(pytest.param(name, 4, marks=[pytest.mark.slow] * (name not in FAST)) for name in LOSSES),
    pytest.param('tcl', 1, marks=pytest.mark.slow),
    pytest.param('sogclr', 12, marks=pytest.mark.slow),
  ],
)
def test_value_and_gradient_are_those_of_the_plain_form(name, block_size, x64):
  count, loss = LOSSES[name]

  def total(z, block_size):
    first, *rest = jax.tree.leaves(loss(z, block_size=block_size))
    weight = jnp.linspace(1.0, 2.0, first.size).reshape(first.shape)
    return jnp.sum(weight * first), (first, rest)

  z = views(count)
  both = jax.jit(jax.value_and_grad(total, has_aux=True), static_argnums=1)
  (_, plain), gradient = both(z, None)
  (_, blocked), of_blocks = both(z, block_size)
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(blocked), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
  assert np.abs(gradient).max() > 1e-3
  np.testing.assert_allclose(of_blocks, gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
def test_blocks_are_whole():
  with pytest.raises(ValueError, match='block_size=5 does not divide 24 rows'):
    ntxent(views(2), block_size=5)
  with pytest.raises(ValueError, match='mask'):
    supcon(views(2), mask=jnp.eye(12), block_size=4)


def memory(loss, batch_size):
  """Bytes on each of 8 devices for value and gradient, beside arguments and results."""
  mesh = sharding.make_mesh()
  assert mesh.size == 8
  rows = sharding.by_rows(mesh)
  step = jax.jit(
    jax.value_and_grad(lambda z: loss(z).mean()), in_shardings=rows, out_shardings=(None, rows)
  )
  z = jax.ShapeDtypeStruct((batch_size, 2, 128), jnp.float32)
  return step.lower(z).compile().memory_analysis().temp_size_in_bytes


def sogclr_loss(z, block_size):
  return sogclr(z, jnp.zeros(len(z)), block_size=block_size).per_example


BLOCKED = {
  'ntxent': functools.partial(ntxent, block_size=512),
  'sogclr': functools.partial(sogclr_loss, block_size=512),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', BLOCKED)
def test_memory_grows_with_the_rows_and_not_with_their_square(name):
  blocked, plain = BLOCKED[name], functools.partial(BLOCKED[name], block_size=None)
  of_blocked = [memory(blocked, size) for size in (4096, 16384)]
  assert of_blocked[1] < 4.5 * of_blocked[0]
  assert memory(plain, 16384) > 10 * memory(plain, 4096)
  # 131,072 rows: the whole matrix would be 64 GiB, 8 on each device.
  assert memory(blocked, 65536) < 0.4 * GIB
