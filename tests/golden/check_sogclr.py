"""Checkers for SogCLR on one device and on several (archives a_sogclr, a_sogclr_dist)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clr_jax import methods, models
from clr_jax.sharding import AXIS
from clr_jax.types import Batch, Out, RunInfo


def run(case, *, mesh=None, steps=None, **hyper):
  """Calls loss and post_update in the archive's order, carrying the state; stacks over calls."""
  steps_per_epoch = len(case.index)  # step = epoch * steps_per_epoch + t has epoch `epoch`
  info = RunInfo(
    num_examples=case.N,
    num_classes=None,
    batch_size=case.index.shape[1],
    num_views=2,
    steps_per_epoch=steps_per_epoch,
    total_steps=100 * steps_per_epoch,
  )
  method = methods.get('sogclr')(
    models.get('resnet_tiny'), info, temperature=case.tau, gamma=case.gamma, **hyper
  )
  rows = NamedSharding(mesh, PartitionSpec(AXIS)) if mesh else None
  replicated = NamedSharding(mesh, PartitionSpec()) if mesh else None
  u = np.zeros(-(-case.N // 1024) * 1024)
  u[: case.N] = case.get('u_init', np.zeros(case.N))
  with np.errstate(divide='ignore'):
    table = jnp.asarray(np.log(u), case.h1.dtype)
  state = {'batch_stats': {}, 'per_example': {'log_u': jax.device_put(table, rows)}}

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

  losses, grads, tables = [], [], []
  for t, index in enumerate(case.index):
    step = int(case.epoch[t]) * steps_per_epoch + t if 'epoch' in case else t
    h = jax.device_put(np.stack([case.h1[t], case.h2[t]], 1), rows)
    value, grad, state = call(h, jax.device_put(index, rows), state, step)
    losses.append(value)
    grads.append(np.asarray(grad))
    tables.append(np.exp(np.asarray(state['per_example']['log_u'])[: case.N]))
  return np.asarray(losses), np.asarray(grads), np.asarray(tables)


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
  common = {'eps': case.eps, 'combine': case.u_combine}
  variants = [('', _options(case))]
  if 'loss_perindex' in case:
    variants.append(('_perindex', {'first_visit': 'per_index'}))
  for suffix, options in variants:
    losses, grads, tables = run(case, **common, **options)
    close(losses, case[f'loss{suffix}'], f'loss{suffix}')
    close(grads[:, :, 0], case[f'grad_h1{suffix}'], f'grad_h1{suffix}')
    close(grads[:, :, 1], case[f'grad_h2{suffix}'], f'grad_h2{suffix}')
    close(tables, case[f'u_after{suffix}'], f'u_after{suffix}')


def a_sogclr_dist(case, close):
  mesh = Mesh(np.asarray(jax.devices()[: case.world_size]), (AXIS,))
  losses, grads, tables = run(case, mesh=mesh, first_visit='per_batch')
  close(losses, case.global_loss, 'global_loss')
  close(losses, case.loss_per_rank.mean(1), 'mean of loss_per_rank')
  close(grads[:, :, 0], case.global_grad_h1, 'global_grad_h1')
  close(grads[:, :, 1], case.global_grad_h2, 'global_grad_h2')
  close(tables, case.u_after, 'u_after')
