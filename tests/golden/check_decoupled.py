"""Checkers for pairwise losses: c_simclr, c_dcl, c_flatnce, c_rpc, c_hcl, c_debiased."""

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.core.types import Batch, Out
from clr_jax.losses import decoupled
from tests.golden.check_contrastive import _sample_major, make_method, method_loss
from tests.golden.check_distillation import through_unit


def value_and_grad(loss, z):
  return jax.jit(jax.value_and_grad(loss))(jnp.asarray(z))


def close_views(close, grad, case, name):
  """Gradient [B, 2, D] against the arrays name1 and name2."""
  for view in (0, 1):
    close(grad[:, view], case[f'{name}{view + 1}'], f'{name}{view + 1}')


def metrics_of(method, z):
  step = jnp.zeros([], jnp.int32)
  return method.loss(Out(online=jnp.asarray(z)), {}, Batch(), jax.random.key(0), step)[2]


def view_major(num_images):
  """Row b * 2 + v of the library for each row v * B + b of an archive."""
  row = np.arange(2 * num_images)
  return row % num_images * 2 + row // num_images


def c_simclr(case, close):
  views, z = case.n_views, _sample_major(case.z, case.n_views)
  hyper = {'batch_size': len(z), 'num_views': views, 'temperature': case.temperature}
  loss, grad = method_loss(make_method('simclr', **hyper), z)
  close(loss, case.loss, 'loss')
  close(grad, _sample_major(case.grad_z, views), 'grad_z')


def c_dcl(case, close):
  z, raw = np.stack([case.z1, case.z2], 1), np.stack([case.raw1, case.raw2], 1)
  weights = decoupled.dcl_weights(z, sigma=case.sigma, normalize=False)
  close(weights, case.dclw_weights, 'dclw_weights')
  for name, weighted in (('dcl', False), ('dclw', True)):
    options = {'temperature': case.temperature, 'weight_stop_gradient': False}

    def per_anchor(z, options=options, sigma=case.sigma if weighted else None):
      return decoupled.dcl(z, sigma=sigma, normalize=False, **options)

    directions = per_anchor(z).mean(0)
    close(directions[0], case[f'{name}_loss_1to2'], f'{name}_loss_1to2')
    close(directions[1], case[f'{name}_loss_2to1'], f'{name}_loss_2to1')
    loss, grad = value_and_grad(lambda z, f=per_anchor: 2 * f(z).mean(), z)
    close(loss, case[f'{name}_loss'], f'{name}_loss')
    close_views(close, grad, case, f'{name}_grad_z')

    common = {'batch_size': len(z), 'num_views': 2, 'weighted': weighted, 'sigma': case.sigma}
    method = make_method('dcl', loss_scale=2.0, **common, **options)
    loss, through = method_loss(method, z)
    close(loss, case[f'{name}_loss'], f'method {name}_loss')
    close(through, through_unit(z, grad), f'method {name} gradient')
    method = make_method('dcl', temperature=case.temperature, **common)
    loss, grad = method_loss(method, raw)
    close(loss, case[f'lightly_{name}_loss'], f'lightly_{name}_loss')
    close_views(close, grad, case, f'lightly_{name}_grad_raw')


def c_flatnce(case, close):
  z, rows = _sample_major(case.z, 2), view_major(len(case.z) // 2)
  hyper = {'batch_size': len(z), 'num_views': 2, 'temperature': case.temperature}
  loss, grad = method_loss(make_method('flatnce', **hyper), z)
  close(loss, case.loss, 'loss')
  close(grad, _sample_major(case.grad_z, 2), 'grad_z')
  scores = decoupled.pair_scores(z, temperature=case.temperature)
  logits = (scores.scores - scores.positive[:, None])[rows][:, rows]
  negative = np.asarray(scores.negative)[rows][:, rows]
  close(np.asarray(logits)[negative].reshape(len(rows), -1), case.row_logits, 'row_logits')
  v = decoupled.dcl(z, temperature=case.temperature).reshape(-1)
  close(v[rows], case.row_logsumexp, 'row_logsumexp')


def c_rpc(case, close):
  z = _sample_major(case.hidden, 2)
  hyper = {k: case[k] for k in ('alpha', 'beta', 'gamma')}
  method = make_method(
    'rpc',
    batch_size=len(z),
    num_views=2,
    temperature=case.temperature,
    normalize=bool(case.hidden_norm),
    **hyper,
  )
  loss, grad = method_loss(method, z)
  close(loss, case.loss, 'loss')
  close(grad, _sample_major(case.grad_hidden, 2), 'grad_hidden')

  def objective(f):
    scores = decoupled.PairScores(jnp.diagonal(f), f, ~jnp.eye(len(f), dtype=bool))
    return decoupled.rpc_objective(scores, **hyper)

  value, grad = value_and_grad(objective, case.matrix_scores)
  close(value, case.matrix_objective, 'matrix_objective')
  close(grad, case.matrix_grad, 'matrix_grad')


def _hard(case, close, name, method, *, tau_plus, beta=0.0):
  """One form of `hcl` on unit rows; the same through the method, which normalizes them again."""
  z = np.stack([case.z1, case.z2], 1)
  options = {'temperature': case.temperature, 'tau_plus': tau_plus}

  def mean(z):
    return decoupled.hcl(z, beta=beta, normalize=False, **options).per_anchor.mean()

  loss, grad = value_and_grad(mean, z)
  close(loss, case[f'{name}_loss'], f'{name}_loss')
  close_views(close, grad, case, f'{name}_grad_z')
  if method == 'hcl':
    options['beta'] = beta
  method = make_method(method, batch_size=len(z), num_views=2, **options)
  loss, through = method_loss(method, z)
  close(loss, case[f'{name}_loss'], f'method {name}_loss')
  close(through, through_unit(z, grad), f'method {name} gradient')
  if tau_plus:
    clamped = metrics_of(method, z)['clamped_anchors'] * 2 * len(z)
    close(clamped, case.n_clamped_anchors, 'n_clamped_anchors')


def c_hcl(case, close):
  _hard(case, close, 'hard', 'hcl', tau_plus=case.tau_plus, beta=case.beta)
  _hard(case, close, 'easy', 'hcl', tau_plus=0.0)


def c_debiased(case, close):
  _hard(case, close, 'debiased', 'debiased', tau_plus=case.tau_plus)
  _hard(case, close, 'biased', 'debiased', tau_plus=0.0)
