"""Checkers for NT-Xent, SupCon and TCL (archives a_ntxent, a_supcon, a_tcl)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax import methods, models
from clr_jax.core.types import Batch, Out, RunInfo
from clr_jax.losses import contrastive


def make_method(name, *, batch_size, num_views, num_classes=10, **hyper):
  """A method whose loss can be called; its networks are never initialized."""
  info = RunInfo(
    num_examples=max(batch_size, 2),
    num_classes=num_classes,
    batch_size=batch_size,
    num_views=num_views,
    steps_per_epoch=1,
    total_steps=10,
  )
  return methods.factory(name)(models.make('resnet_tiny'), info, **hyper)


def method_loss(method, h, *, label=None):
  """Loss of embeddings [B, V, D] through `Method.loss`, and its gradient."""

  def loss(h):
    batch = Batch(label=label)
    return method.loss(Out(online=h), {}, batch, jax.random.key(0), jnp.zeros([], jnp.int32))[0]

  return jax.jit(jax.value_and_grad(loss))(jnp.asarray(h))


def a_ntxent(case, close):
  h = np.stack([case.h1, case.h2], 1)

  def make(scale):
    hyper = {'temperature': case.tau, 'loss_scale': scale}
    return make_method('simclr', batch_size=len(h), num_views=2, **hyper)

  loss, grad = method_loss(make(1.0), h)
  close(loss, case.loss_mean, 'loss_mean')
  close(grad[:, 0], case.grad_h1, 'grad_h1')
  close(grad[:, 1], case.grad_h2, 'grad_h2')
  close(method_loss(make(2.0), h)[0], case.loss_simclr, 'loss_simclr')
  per_anchor = jax.jit(lambda h: contrastive.ntxent(h, temperature=case.tau))(h)
  close(per_anchor.T.reshape(-1), case.loss_per_anchor, 'loss_per_anchor')


def a_supcon(case, close):
  anchors = 'one' if case.contrast_mode_one else 'all'
  hyper = {'temperature': case.tau, 'base_temperature': case.base_tau, 'anchors': anchors}
  labels, mask = case.get('labels'), case.get('mask')

  def loss(x, normalize):
    return contrastive.supcon(x, labels, mask, normalize=normalize, **hyper)

  per_anchor = jax.jit(loss, static_argnums=1)(case.h, True)
  close(per_anchor.T.reshape(-1), case.loss_per_anchor, 'loss_per_anchor')
  close(per_anchor.mean(), case.loss, 'loss')
  close(
    jax.jit(jax.grad(lambda z: loss(z, False).mean()))(jnp.asarray(case.z)), case.grad_z, 'grad_z'
  )
  close(
    jax.jit(jax.grad(lambda h: loss(h, True).mean()))(jnp.asarray(case.h)), case.grad_h, 'grad_h'
  )
  num_views = case.h.shape[1]
  if mask is None and (labels is not None or num_views > 1):
    method = make_method(
      'supcon',
      batch_size=len(case.h),
      num_views=num_views,
      supervised=labels is not None,
      **hyper,
    )
    value, grad = method_loss(method, case.h, label=labels)
    close(value, case.loss, 'method loss')
    close(grad, case.grad_h, 'method grad_h')


def _sample_major(rows, num_views):
  """[V * B, ...] view-major -> [B, V, ...]."""
  return np.swapaxes(rows.reshape(num_views, -1, *rows.shape[1:]), 0, 1)


def a_tcl(case, close):
  views = case.n_views
  hyper = {'temperature': case.tau, 'k1': case.k1, 'k2': case.k2}
  h = _sample_major(case.h, views)
  labels = _sample_major(case.labels, views)[:, 0]
  by_sample = len(np.unique(labels)) == len(labels) and views > 1
  result = jax.jit(lambda h: contrastive.tcl(h, labels, **hyper))(h)

  def flat(x):  # [B, V] -> view-major
    return np.asarray(x).T.reshape(-1)

  close(flat(result.per_anchor), case.loss_per_anchor, 'loss_per_anchor')
  denominator = np.where(case.has_positive, np.exp(flat(result.log_denominator)), np.nan)
  close(denominator, case.denom_per_anchor, 'denom_per_anchor')
  np.testing.assert_array_equal(flat(result.has_positive), case.has_positive)
  close(result.per_anchor.sum(), case.loss_sum, 'loss_sum')

  for supervised in (True, False) if by_sample else (True,):
    common = {'batch_size': len(h), 'num_views': views, 'supervised': supervised, **hyper}
    mean_all = make_method('tcl', reduction='mean', **common)
    mean_valid = make_method('tcl', reduction='mean_valid', **common)
    value, grad = method_loss(mean_all, h, label=labels)
    close(value, case.loss_mean_all, 'loss_mean_all')
    close(grad, _sample_major(case.grad_h_mean_all, views), 'grad_h_mean_all')
    close(method_loss(mean_valid, h, label=labels)[0], case.loss_mean_valid, 'mean_valid')

  def mean(z):
    return contrastive.tcl(z, case.labels, normalize=False, **hyper).per_anchor.mean()

  rows = jnp.asarray(case.z)  # every row its own sample: the labels alone make the pairs
  close(jax.jit(jax.grad(mean))(rows[:, None])[:, 0], case.grad_z_mean_all, 'grad_z_mean_all')

  def anchors_only(anchor):
    pairs = contrastive.pair_masks(len(rows), 1, labels=jnp.asarray(case.labels))
    return contrastive.tcl_rows(anchor, rows, pairs, **hyper).per_anchor.sum()

  close(jax.jit(jax.grad(anchors_only))(rows), case.lemma2_anchor_grad, 'lemma2_anchor_grad')
  for name, k in (('tcl', {'k1': case.k1, 'k2': case.k2}), ('supcon', {'k1': 0.0, 'k2': 1.0})):
    responses = functools.partial(contrastive.responses, temperature=case.tau, **k)
    positive, negative = jax.jit(responses)(h, labels)
    close(positive, case[f'diag_{name}_pos'], f'diag_{name}_pos')
    close(negative, case[f'diag_{name}_neg'], f'diag_{name}_neg')
