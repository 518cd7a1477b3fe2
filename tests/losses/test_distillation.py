"""Losses with a target: identities, invariances, zero gradients. The numbers: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.losses import distillation as losses
from clr_jax.losses.contrastive import ntxent
from clr_jax.ops import ema
from clr_jax.ops.similarity import unit
from tests.losses._cases import batches, rotation, same

CENTER = jnp.linspace(-0.1, 0.2, 4)
QUEUE = unit(jax.random.normal(jax.random.key(3), [6, 4]))
LOSSES = {  # each of online and target, [B, 2, 4]
  'byol': lambda p, z: losses.byol(p, z).sum(),
  'dino': lambda p, z: losses.dino(p, z, CENTER).sum(),
  'ressl': lambda p, z: losses.ressl(p[:, 0], z[:, 1], QUEUE).mean(),
}


@pytest.mark.parametrize('name', LOSSES)
def test_the_target_gets_exactly_no_gradient(name):
  online, target = jax.random.normal(jax.random.key(0), [2, 3, 2, 4])
  grads = jax.grad(LOSSES[name], argnums=(0, 1))(online, target)
  assert np.abs(grads[0]).max() > 0
  np.testing.assert_array_equal(grads[1], 0)


@settings(max_examples=8, deadline=None)
@given(z=batches(min_batch=1), seed=st.integers(0, 99))
def test_byol_is_4_minus_two_cosines_and_sees_directions_only(z, seed):
  target = z[::-1] @ rotation(seed, 4)
  p, t = unit(z), unit(target)
  cosine = [(p[:, v] * t[:, 1 - v]).sum(-1).mean() for v in range(2)]
  value = LOSSES['byol'](z, target)
  same(value, 4 - 2 * (cosine[0] + cosine[1]))
  same(LOSSES['byol'](3.0 * z, 0.1 * target), value)
  turn = rotation(seed + 1, 4)
  same(LOSSES['byol'](z @ turn, target @ turn), value)


def test_a_view_is_never_compared_with_itself():
  online = jax.random.normal(jax.random.key(0), [3, 4, 5])
  target = jax.random.normal(jax.random.key(1), [3, 2, 5])
  for pairs in (losses.byol(online, target), losses.dino(online, target, jnp.zeros(5))):
    assert pairs.shape == (2, 4)
    np.testing.assert_array_equal(np.asarray(pairs) != 0, ~np.eye(2, 4, dtype=bool))


@settings(max_examples=8, deadline=None)
@given(z=batches(), scale=st.floats(0.1, 10))
def test_paired_cross_entropy_sees_directions_only_and_log_batch_for_equal_rows(z, scale):
  value = losses.paired_cross_entropy(z[:, 0], z[:, 1], temperature=0.5)
  same(losses.paired_cross_entropy(scale * z[:, 0], z[:, 1], temperature=0.5), value)
  equal = jnp.broadcast_to(z[:1, 0], z[:, 0].shape)
  same(losses.paired_cross_entropy(equal, equal, temperature=0.5), jnp.full(len(z), np.log(len(z))))


def test_ntxent_has_the_negatives_of_the_same_view_in_addition():
  z = jax.random.normal(jax.random.key(0), [4, 2, 6])
  rows = losses.paired_cross_entropy(z[:, 0], z[:, 1], temperature=0.3)
  assert (ntxent(z, temperature=0.3)[:, 0] > rows).all()


def test_dino_is_small_when_the_student_agrees_and_the_center_converges_geometrically():
  teacher = 5 * jnp.eye(4)[:, None].repeat(2, 1)
  agreeing = losses.dino(teacher, teacher, jnp.zeros(4)).sum()
  assert agreeing < 1e-6 < losses.dino(teacher[::-1], teacher, jnp.zeros(4)).sum()
  center, mean = jnp.zeros(3), jnp.array([1.0, -2.0, 0.5])
  for _ in range(4):
    center = ema.update(center, mean, 0.9)
  same(center, (1 - 0.9**4) * mean)


def test_centering_removes_what_all_logits_share():
  student, teacher = jax.random.normal(jax.random.key(0), [2, 3, 2, 4])
  shift = jnp.array([3.0, -1.0, 0.0, 2.0])
  same(
    losses.dino(student, teacher + shift[None, None], shift),
    losses.dino(student, teacher, jnp.zeros(4)),
  )


def test_ressl_is_lowest_for_the_teachers_own_similarities():
  z = unit(jax.random.normal(jax.random.key(0), [3, 4]))
  other = unit(jax.random.normal(jax.random.key(1), [3, 4]))
  at = {'temperature_q': 0.1, 'temperature_k': 0.1}
  assert (losses.ressl(z, z, QUEUE, **at) < losses.ressl(other, z, QUEUE, **at)).all()
