"""Checkers for losses without negatives: c_simsiam, c_barlow, c_vicreg, c_wmse, c_arb."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.core.types import Batch, Out
from clr_jax.losses import alignment, redundancy
from clr_jax.ops import whitening
from tests.golden.check_contrastive import make_method, method_loss
from tests.golden.check_decoupled import close_views, metrics_of


def pair(case):
  return np.stack([case.z1, case.z2], 1)


def check_method(name, z, case, close, prefix='', **hyper):
  """Loss and gradients of a method of two views."""
  method = make_method(name, batch_size=len(z), num_views=2, **hyper)
  loss, grad = method_loss(method, z)
  close(loss, case[f'{prefix}loss'], f'{prefix}loss')
  close_views(close, grad, case, f'{prefix}grad_z')
  return method


def c_simsiam(case, close):
  method = make_method('simsiam', batch_size=len(case.p1), num_views=2)
  p, z = jnp.stack([case.p1, case.p2], 1), jnp.stack([case.z1, case.z2], 1)

  @jax.jit
  def loss(p, z):
    def value(p, z):
      out, step = Out(online=p, target=z), jnp.zeros([], jnp.int32)
      loss, _, metrics = method.loss(out, {}, Batch(), jax.random.key(0), step)
      return loss, metrics

    return jax.value_and_grad(value, (0, 1), has_aux=True)(p, z)

  (value, metrics), (grad_p, grad_z) = loss(p, z)
  close(value, case.loss, 'loss')
  close(metrics['z_std'], case.metric_z_std, 'metric_z_std')
  close_views(close, grad_p, case, 'grad_p')
  close_views(close, grad_z, case, 'grad_z')


def c_barlow(case, close):
  z = pair(case)
  hyper = {'off_diagonal_weight': case.lambd}
  check_method('barlow_twins', z, case, close, loss_scale=1.0, **hyper)
  hyper['loss_scale'] = case.scale_loss
  check_method('barlow_twins', z, case, close, 'sololearn_', **hyper)
  close(redundancy.cross_correlation(z), case.cross_correlation, 'cross_correlation')


def c_vicreg(case, close):
  z = pair(case)
  hyper = {
    'invariance_weight': case.sim_coeff,
    'variance_weight': case.std_coeff,
    'covariance_weight': case.cov_coeff,
  }
  method = check_method('vicreg', z, case, close, **hyper)
  check_method('vicreg', z, case, close, 'sololearn_', variance_average=False, **hyper)
  terms = metrics_of(method, z)
  for name in ('invariance', 'variance', 'covariance'):
    close(terms[name], case[f'{name[:3]}_term'], f'{name[:3]}_term')


def c_wmse(case, close):
  z = np.swapaxes(case.features, 0, 1)
  orders = jnp.asarray(case.permutations)
  hyper = {'eps': case.eps, 'normalize': bool(case.normalize)}
  forms = [(True, case.grad_features)]
  if 'sololearn_grad_features' in case:
    forms.append((False, case.sololearn_grad_features))
  for symmetric, expected in forms:
    method = make_method(
      'w_mse',
      batch_size=len(z),
      num_views=z.shape[1],
      whitening_size=case.whitening_size,
      whitening_iters=case.whitening_iters,
      out_dim=z.shape[-1],
      symmetric=symmetric,
      **hyper,
    )
    with mock.patch.object(whitening, 'permutations', lambda *_: orders):
      loss, grad = method_loss(method, z)
    close(loss, case.loss, 'loss')
    close(np.swapaxes(grad, 0, 1), expected, f'gradient, symmetric={symmetric}')
  for order, expected in zip(orders, case.whitened, strict=True):
    whitened = whitening.whiten_chunks(z, order, size=case.whitening_size, eps=case.eps)
    close(np.swapaxes(whitened, 0, 1), expected, 'whitened')


def c_arb(case, close):
  z = pair(case)
  order = jnp.asarray(case.permutation)
  hyper = {
    'out_dim': z.shape[-1],
    'groups': case.group,
    'swap': bool(case.swap),
    'divisor': 'batch' if case.divisor == len(z) else 'feature',
  }
  features = alignment.standardized_features(z, order)
  close_arrays(close, features, case, 'std')
  blocks = features.reshape(2, case.group, -1, len(z))
  for name, shrinkage in (('cifar', 1e-4), ('imagenet', 0.0)):
    with mock.patch.object(whitening, 'permutations', lambda *_: order[None]):
      check_method('arb', z, case, close, f'{name}_', shrinkage=shrinkage, **hyper)
    bases = whitening.orthonormal_base(blocks, shrinkage=shrinkage)
    close_arrays(close, bases.reshape(features.shape), case, f'{name}_base')


def close_arrays(close, views, case, name):
  for i, view in enumerate(views):
    close(view, case[f'{name}{i + 1}'], f'{name}{i + 1}')
