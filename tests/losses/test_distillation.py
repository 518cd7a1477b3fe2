"""Losses with a target: identities, invariances, zero gradients. The numbers: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.losses import distillation as losses
from clr_jax.ops import ema
from clr_jax.ops.similarity import l2_normalize
from tests.losses._cases import compiled, same

dino, ressl = compiled(losses.dino), compiled(losses.ressl)

CENTER = jnp.linspace(-0.1, 0.2, 4)
QUEUE = l2_normalize(jax.random.normal(jax.random.key(3), [6, 4]))
LOSSES = {  # each of online and target, [B, 2, 4]
  'dino': lambda p, z: dino(p, z, CENTER).sum(),
  'ressl': lambda p, z: ressl(p[:, 0], z[:, 1], QUEUE).mean(),
}


@pytest.mark.parametrize('name', LOSSES)
def test_the_target_gets_exactly_no_gradient(name):
  online, target = jax.random.normal(jax.random.key(0), [2, 3, 2, 4])
  grads = jax.grad(LOSSES[name], argnums=(0, 1))(online, target)
  assert np.abs(grads[0]).max() > 0
  np.testing.assert_array_equal(grads[1], 0)


def test_a_view_is_never_compared_with_itself():
  online = jax.random.normal(jax.random.key(0), [3, 4, 5])
  target = jax.random.normal(jax.random.key(1), [3, 2, 5])
  pairs = dino(online, target, jnp.zeros(5))
  assert pairs.shape == (2, 4)
  np.testing.assert_array_equal(np.asarray(pairs) != 0, ~np.eye(2, 4, dtype=bool))


def test_dino_is_small_when_the_student_agrees_and_the_center_converges_geometrically():
  teacher = 5 * jnp.eye(4)[:, None].repeat(2, 1)
  agreeing = dino(teacher, teacher, jnp.zeros(4)).sum()
  assert agreeing < 1e-6 < dino(teacher[::-1], teacher, jnp.zeros(4)).sum()
  center, mean = jnp.zeros(3), jnp.array([1.0, -2.0, 0.5])
  for _ in range(4):
    center = ema.update(center, mean, 0.9)
  same(center, (1 - 0.9**4) * mean)


def test_centering_removes_what_all_logits_share():
  student, teacher = jax.random.normal(jax.random.key(0), [2, 3, 2, 4])
  shift = jnp.array([3.0, -1.0, 0.0, 2.0])
  same(
    dino(student, teacher + shift[None, None], shift),
    dino(student, teacher, jnp.zeros(4)),
  )


def test_ressl_is_lowest_for_the_teachers_own_similarities():
  z = l2_normalize(jax.random.normal(jax.random.key(0), [3, 4]))
  other = l2_normalize(jax.random.normal(jax.random.key(1), [3, 4]))
  at = {'temperature_q': 0.1, 'temperature_k': 0.1}
  assert (ressl(z, z, QUEUE, **at) < ressl(other, z, QUEUE, **at)).all()
