"""Checkers for SogCLR on one device and on several, and iSogCLR (a_sogclr[_dist], a_isogclr)."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clr_jax import methods, models
from clr_jax.core.types import Batch, Out, RunInfo
from clr_jax.ops.sharding import AXIS


def run(case, *, name='sogclr', tables=None, mesh=None, **hyper):
  """Calls loss and post_update in the archive's order, carrying the state; stacks over calls.

  `tables` are a method's tables besides u, {name: [N]} before the first call. Returns losses,
  gradients and {name: [T, N]} of all tables after each call, u in place of log u.
  """
  steps_per_epoch = len(case.index)  # step = epoch * steps_per_epoch + t has epoch `epoch`
  info = RunInfo(
    num_examples=case.N,
    num_classes=None,
    batch_size=case.index.shape[1],
    num_views=2,
    steps_per_epoch=steps_per_epoch,
    total_steps=100 * steps_per_epoch,
  )
  method = methods.factory(name)(models.make('resnet_tiny'), info, gamma=case.gamma, **hyper)
  rows = NamedSharding(mesh, PartitionSpec(AXIS)) if mesh else None
  replicated = NamedSharding(mesh, PartitionSpec()) if mesh else None
  with np.errstate(divide='ignore'):
    log_u = np.log(case.get('u_init', np.zeros(case.N)))
  start = {'log_u': log_u, **(tables or {})}
  for key, value in start.items():
    table = np.zeros(-(-case.N // 1024) * 1024, case.h1.dtype)
    table[: case.N] = value
    start[key] = jax.device_put(table, rows)
  state = {'batch_stats': {}, 'per_example': start}

  @jax.jit
  def call(h, index, state, step):
    def loss(h):
      value, carry, _ = method.loss(Out(online=h), state, Batch(index=index), None, step)
      return value, carry

    (value, carry), grad = jax.value_and_grad(loss, has_aux=True)(h)
    if mesh:
      carry = jax.lax.with_sharding_constraint(carry, replicated)
    _, new = method.post_update({}, state, {'batch_stats': {}, **carry}, step)
    return value, grad, new

  losses, grads, history = [], [], {key: [] for key in start}
  for t, index in enumerate(case.index):
    step = int(case.epoch[t]) * steps_per_epoch + t if 'epoch' in case else t
    h = jax.device_put(np.stack([case.h1[t], case.h2[t]], 1), rows)
    value, grad, state = call(h, jax.device_put(index, rows), state, step)
    losses.append(value)
    grads.append(np.asarray(grad))
    for key, table in state['per_example'].items():
      history[key].append(np.asarray(table)[: case.N])
  history['u'] = np.exp(history.pop('log_u'))
  return np.asarray(losses), np.asarray(grads), history


def _options(case):
  """The library's options that give the weights `gamma_used` which the archive applied."""
  u_before = np.concatenate([case.u_init[None], case.u_after[:-1]])
  fresh = np.array([not u[i].any() for u, i in zip(u_before, case.index, strict=True)])
  used, gamma = np.asarray(case.gamma_used), case.gamma
  if np.allclose(used, gamma):
    return {'first_visit': 'none'}
  if np.allclose(used, np.where(fresh, 1.0, gamma)):
    return {'first_visit': 'per_batch'}
  if np.allclose(used, np.where(fresh & (case.epoch == 0), 1.0, gamma)):
    return {'first_visit': 'per_batch_first_epoch'}
  # The cosine from 1 to gamma: its length is the one that gives the archive's weights.
  for decay in range(1, 1000):
    x = np.minimum(case.epoch / decay, 1)
    if np.allclose(used, (1 - gamma) / 2 * (1 + np.cos(np.pi * x)) + gamma):
      return {'first_visit': 'none', 'gamma_schedule': 'cosine', 'gamma_decay_epochs': decay}
  raise AssertionError(f'no option of the library gives gamma_used = {used}')


def a_sogclr(case, close):
  common = {'temperature': case.tau, 'eps': case.eps, 'combine': case.u_combine}
  variants = [('', _options(case))]
  if 'loss_perindex' in case:
    variants.append(('_perindex', {'first_visit': 'per_index'}))
  for suffix, options in variants:
    losses, grads, tables = run(case, **common, **options)
    close(losses, case[f'loss{suffix}'], f'loss{suffix}')
    close(grads[:, :, 0], case[f'grad_h1{suffix}'], f'grad_h1{suffix}')
    close(grads[:, :, 1], case[f'grad_h2{suffix}'], f'grad_h2{suffix}')
    close(tables['u'], case[f'u_after{suffix}'], f'u_after{suffix}')


def a_sogclr_dist(case, close):
  mesh = Mesh(np.asarray(jax.devices()[: case.world_size]), (AXIS,))
  losses, grads, tables = run(case, mesh=mesh, temperature=case.tau, first_visit='per_batch')
  close(losses, case.global_loss, 'global_loss')
  close(losses, case.loss_per_rank.mean(1), 'mean of loss_per_rank')
  close(grads[:, :, 0], case.global_grad_h1, 'global_grad_h1')
  close(grads[:, :, 1], case.global_grad_h2, 'global_grad_h2')
  close(tables['u'], case.u_after, 'u_after')


def a_isogclr(case, close):
  losses, grads, tables = run(
    case,
    name='isogclr',
    tables={'temperature': case.tau_init, 'momentum': case.grad_tau_init},
    temperature=float(np.clip(case.tau_init[0], case.tau_min, case.tau_max)),
    temperature_min=case.tau_min,
    temperature_max=case.tau_max,
    first_visit='per_batch',
    **{k: case[k] for k in ('eps', 'rho', 'eta', 'beta')},
  )
  close(losses, case.loss, 'loss')
  close(grads[:, :, 0], case.grad_h1, 'grad_h1')
  close(grads[:, :, 1], case.grad_h2, 'grad_h2')
  close(tables['u'], case.u_after, 'u_after')
  close(tables['temperature'], case.tau_after, 'tau_after')
  close(tables['momentum'], case.grad_tau_after, 'grad_tau_after')
