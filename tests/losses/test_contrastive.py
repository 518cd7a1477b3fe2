"""NT-Xent, SupCon, TCL: identities and invariances. The numbers themselves: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clr_jax.core.errors import UserError
from clr_jax.losses import contrastive
from tests.losses._cases import batches, compiled, rotation, same

ntxent, supcon = compiled(contrastive.ntxent), compiled(contrastive.supcon)
tcl, responses = compiled(contrastive.tcl), compiled(contrastive.responses)

LABELS = jnp.array([0, 0, 1, 1, 2])
Z = jax.random.normal(jax.random.key(0), [5, 2, 6])
LOSSES = {
  'ntxent': lambda z, t=0.2: ntxent(z, temperature=t).mean(),
  'supcon': lambda z, t=0.2: supcon(z, LABELS[: len(z)], temperature=t).mean(),
  'supcon_views': lambda z, t=0.2: supcon(z, temperature=t).mean(),
  'tcl': lambda z, t=0.2: tcl(z, LABELS[: len(z)], temperature=t, k1=5000.0).per_anchor.mean(),
}
each_loss = pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)


def test_one_sample_has_no_negatives():
  """Then numerator and denominator are the same sum."""
  np.testing.assert_allclose(ntxent(Z[:1]), 0, atol=1e-6)
  np.testing.assert_allclose(supcon(Z[:1]), 0, atol=1e-6)


def test_one_row_is_finite():
  """A single view of a single sample: neither positives nor negatives."""
  for loss in (lambda z: supcon(z).sum(), lambda z: tcl(z).per_anchor.sum()):
    value, grad = jax.value_and_grad(loss)(Z[:1, :1])
    assert value == 0 and (grad == 0).all()


@settings(max_examples=20, deadline=None)
@given(batches(), st.floats(0.05, 1.0))
def test_supcon_without_labels_is_ntxent_for_two_views(z, temperature):
  same(supcon(z, temperature=temperature), ntxent(z, temperature=temperature))


@settings(max_examples=20, deadline=None)
@given(batches(), st.floats(0.05, 1.0))
def test_tcl_without_its_two_terms_is_supcon(z, temperature):
  labels = jnp.arange(len(z)) // 2
  tuned = tcl(z, labels, temperature=temperature, k1=0.0, k2=1.0)
  same(tuned.per_anchor, supcon(z, labels, temperature=temperature))


def test_equal_labels_in_a_mask_are_labels():
  mask = LABELS[:, None] == LABELS[None, :]
  same(supcon(Z, mask=mask), supcon(Z, LABELS))
  same(supcon(Z, mask=jnp.eye(5)), supcon(Z))


def test_anchors_one_are_the_rows_of_view_0():
  same(supcon(Z, LABELS, anchors='one'), supcon(Z, LABELS)[:, :1])


def test_base_temperature_rescales():
  same(supcon(Z, temperature=0.1, base_temperature=0.07), supcon(Z, temperature=0.1) / 0.7)


def test_an_anchor_without_positive_gives_zero_and_counts():
  one_view = Z[:, :1]  # label 2 is alone
  for values in (supcon(one_view, LABELS), tcl(one_view, LABELS).per_anchor):
    assert values.shape == (5, 1) and values[4] == 0 and (values[:4] > 0).all()
  assert tcl(one_view, LABELS).has_positive[:, 0].tolist() == [True] * 4 + [False]
  grad = jax.grad(lambda z: supcon(z, jnp.arange(5)).sum())(one_view)
  assert (grad == 0).all()


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(batches(min_batch=3), st.floats(1.0, 6000.0), st.floats(1.0, 3.0))
def test_tcl_pulls_positives_harder_than_supcon(z, k1, k2):
  """Theorem 1 of the thesis, pair by pair and without its absolute values, with which it fails for
  easy positives: X + Y - P is larger than SupCon's (P = exp(s/T) / D)."""
  labels = jnp.arange(len(z)) // 2

  @jax.jit
  def response(k1, k2):
    rows = z.reshape(-1, z.shape[-1]).astype(jnp.float32)
    rows = rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
    cosine = rows @ rows.T
    log_d = tcl(z, labels, temperature=0.1, k1=k1, k2=k2).log_denominator.reshape(-1, 1)
    return 0.1 * k1 * jnp.exp(-cosine - log_d) - jnp.exp(cosine / 0.1 - log_d)

  group = np.repeat(np.asarray(labels), 2)
  positive = (group[:, None] == group[None]) & ~np.eye(len(group), dtype=bool)
  difference = np.asarray(response(k1, k2) - response(0.0, 1.0))[positive]
  assert (difference > 0).all()


@settings(max_examples=20, deadline=None)
@given(batches(min_batch=3), st.floats(1.0, 3.0))
def test_response_of_negatives_rises_with_k2(z, k2):
  labels = jnp.arange(len(z)) // 2
  low, high = (responses(z, labels, k1=10.0, k2=k)[1] for k in (k2, 1.2 * k2))
  assert high > low


@pytest.mark.parametrize('k1, k2', [(0.0, 1.0), (5000.0, 1.5)])
def test_responses_are_coefficients_of_the_gradient(k1, k2, x64):
  """Lemma 2 of the thesis: dL_i/dz_i with all other rows fixed."""
  z = np.asarray(Z, float).reshape(-1, 6)
  z = z / np.linalg.norm(z, axis=1, keepdims=True)
  labels, t = np.repeat(np.asarray(LABELS), 2), 0.1
  others = np.arange(10) != 0
  positive, negative = (labels == labels[0]) & others, labels != labels[0]

  def anchor_loss(row):
    rows = jnp.concatenate([row[None], z[1:]])[:, None]
    return tcl(rows, labels, temperature=t, k1=k1, k2=k2, normalize=False).per_anchor[0, 0]

  s = z @ z[0]
  d = np.exp(s / t)[positive].sum() + k1 * np.exp(-s)[positive].sum()
  d += k2 * np.exp(s / t)[negative].sum()
  pull = np.exp(s / t) / d - 1 / positive.sum() - t * k1 * np.exp(-s) / d
  push = k2 * np.exp(s / t) / d
  expected = (z[positive].T @ pull[positive] + z[negative].T @ push[negative]) / t
  found = jax.jit(jax.grad(anchor_loss))(jnp.asarray(z[0]))
  np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_responses_without_negatives_are_nan():
  pull, push = responses(Z, jnp.zeros(5, int))
  assert np.isfinite(pull) and np.isnan(push)


def test_tcl_in_one_class_has_no_negatives():
  result = tcl(Z, jnp.zeros(5, int), k1=1.0)
  assert np.isfinite(result.per_anchor).all()
  same(result.per_anchor, tcl(Z, jnp.zeros(5, int), k1=1.0, k2=50.0).per_anchor)


@each_loss
def test_mean_does_not_depend_on_the_order_of_views(loss):
  same(loss(Z[:, ::-1]), loss(Z))


def test_order_of_samples():
  order = jnp.array([3, 0, 4, 1, 2])
  same(ntxent(Z[order]), ntxent(Z)[order])
  same(supcon(Z[order], LABELS[order]), supcon(Z, LABELS)[order])
  same(tcl(Z[order], LABELS[order]).per_anchor, tcl(Z, LABELS).per_anchor[order])


@each_loss
@settings(max_examples=10, deadline=None)
@given(batches(size=5), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_scale_and_rotation_change_nothing(loss, z, scale, seed):
  same(loss(scale * z), loss(z))
  same(loss(z @ rotation(seed, z.shape[-1])), loss(z))


@each_loss
def test_gradient_is_orthogonal_to_the_raw_vectors(loss, x64):
  z = jnp.asarray(Z, float)
  grad = jax.grad(loss)(z)
  assert np.abs(grad).max() > 1e-4
  np.testing.assert_allclose(np.sum(np.asarray(grad) * np.asarray(z), -1), 0, atol=1e-12)


@each_loss
def test_temperature_0_005_in_float32(loss):
  """exp(1 / 0.005) = 1e87 overflows float32, exp(-1 / 0.005) vanishes."""
  for z in (Z, jnp.ones_like(Z), jnp.concatenate([Z[:, :1], -Z[:, :1]], 1)):
    value, grad = jax.value_and_grad(loss)(z, 0.005)
    assert np.isfinite(value) and np.isfinite(grad).all()
  with jax.enable_x64(True):
    wide = loss(jnp.asarray(np.asarray(Z), float), 0.005)
  np.testing.assert_allclose(loss(Z, 0.005), wide, rtol=1e-4)


@each_loss
def test_zero_vectors_have_a_finite_gradient(loss):
  for z in (jnp.zeros_like(Z), Z.at[0, 0].set(0)):
    value, grad = jax.value_and_grad(loss)(z)
    assert np.isfinite(value) and np.isfinite(grad).all()


@each_loss
def test_bfloat16_is_computed_in_float32(loss):
  half = Z.astype(jnp.bfloat16)
  value = loss(half)
  assert value.dtype == jnp.float32
  same(value, loss(half.astype(jnp.float32)))
  assert jax.grad(loss)(half).dtype == jnp.bfloat16


def test_unit_rows_need_no_normalizing():
  z = Z / jnp.linalg.norm(Z, axis=-1, keepdims=True)
  same(ntxent(z, normalize=False), ntxent(Z))
  same(supcon(z, LABELS, normalize=False), supcon(Z, LABELS))
  same(tcl(z, LABELS, normalize=False).per_anchor, tcl(Z, LABELS).per_anchor)


def test_more_than_two_views():
  z = jax.random.normal(jax.random.key(1), [3, 4, 5])
  assert ntxent(z).shape == supcon(z).shape == tcl(z).per_anchor.shape == (3, 4)
  assert ((ntxent(z) >= 0) & np.isfinite(ntxent(z))).all()


def test_unknown_anchors():
  with pytest.raises(UserError, match='choose one of all, one'):
    supcon(Z, anchors='two')


@pytest.mark.parametrize('block_size', [None, 4])
def test_the_anchor_itself_in_the_denominator(block_size, x64):
  """Equation 1 of the robustness report: the sum over k = 1 ... 2 N contains k = i."""
  z = np.random.default_rng(0).normal(size=[4, 2, 3])
  rows = (z / np.linalg.norm(z, axis=-1, keepdims=True)).reshape(8, 3)
  s = rows @ rows.T / 0.5
  expected = [np.log(np.exp(s[i]).sum()) - s[i, i ^ 1] for i in range(8)]
  got = ntxent(jnp.asarray(z), temperature=0.5, include_anchor=True, block_size=block_size)
  np.testing.assert_allclose(got.ravel(), expected, rtol=1e-12)
