"""The online probe: it learns, and nothing of the method notices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.types import Batch, Out
from clr_jax.wrappers.online_probe import online_probe
from tests import toy

SAM_RHO = 0.1


@functools.cache
def train(rho, probe):
  """Parameters of step 0 and state of step 3, float32, one device; with SAM if rho is given."""
  method = toy.method('sogclr')
  method = online_probe(method, toy.INFO) if probe else method
  init, step = toy.training(method, sam=rho and {'rho': rho})
  state, step = jax.jit(init)(jax.random.key(0)), jax.jit(step)
  start = jax.device_get(state.params)
  for i in range(3):
    state, _ = step(state, toy.batch(i))
  return start, state


@pytest.mark.slow
@pytest.mark.parametrize('rho', [None, SAM_RHO], ids=['sgd', 'sam'])
def test_the_encoder_is_the_same_to_the_bit(rho):
  _, without = train(rho, probe=False)
  start, state = train(rho, probe=True)
  params = dict(state.params)
  probe = params.pop('probe')
  assert np.abs(probe['kernel'] - start['probe']['kernel']).max() > 1e-3
  jax.tree.map(np.testing.assert_array_equal, params, dict(without.params))
  jax.tree.map(np.testing.assert_array_equal, state.state, without.state)


@pytest.mark.slow
def test_sam_changes_the_encoder():
  """So that the test above compares two different optimizers."""
  sgd, sam = (train(rho, probe=False)[1].params for rho in (None, SAM_RHO))
  equal = jax.tree.map(np.array_equal, dict(sgd), dict(sam))
  assert not any(jax.tree.leaves(equal['backbone']))


@jax.jit
def probe_loss(label, logits):
  """(loss of the probe alone, metrics) for given logits [B, V, toy.CLASSES]."""
  silent = toy.method('simclr')._replace(loss=lambda *args: (jnp.float32(0), {}, {}))
  wrapped = online_probe(silent, toy.INFO)
  out = Out(extra={'probe_logits': logits})
  value, _, metrics = wrapped.loss(out, {}, Batch(label=label), jax.random.key(0), jnp.int32(0))
  return value, metrics


@jax.jit
def probe_gradient(label, logits):
  return jax.grad(lambda x: probe_loss(label, x)[0])(logits)


def test_unlabeled_rows_do_not_count():
  logits = np.random.default_rng(1).normal(size=[4, 2, toy.CLASSES]).astype(np.float32)
  label = np.array([1, -1, 3, -1])
  value, metrics = probe_loss(label, logits)
  expected, expected_metrics = probe_loss(label[::2], logits[::2])
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert metrics['probe_top1'] == expected_metrics['probe_top1']
  grad = np.asarray(probe_gradient(label, logits))
  assert (grad[1::2] == 0).all() and (grad[::2] != 0).all()


def test_a_batch_without_labels():
  logits, label = np.ones([4, 2, toy.CLASSES], np.float32), np.full(4, -1)
  value, metrics = probe_loss(label, logits)
  grad = probe_gradient(label, logits)
  assert value == 0 and metrics['probe_top1'] == 0 and (grad == 0).all()
