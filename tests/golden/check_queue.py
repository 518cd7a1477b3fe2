"""Checkers for methods with a queue: a_moco, a_dynmoco, c_mocov2plus, c_nnclr, c_infomin."""

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.core.types import Batch, Out
from clr_jax.losses import queue as losses
from clr_jax.ops import ema
from clr_jax.ops import queue as ring
from tests.golden.check_distillation import (
  NO_NETWORK,
  NO_STATISTICS,
  make_method,
  method_step,
  through_unit,
  views,
)


def queue_of(rows, ptr=0):
  return {'rows': jnp.asarray(rows), 'ptr': jnp.asarray(ptr, jnp.int32)}


def same_queue(state, rows, ptr, close, t):
  close(state['rows'], rows, f'queue_after {t}')
  assert int(state['ptr']) == ptr, f'ptr_after {t}'


def a_moco(case, close):
  if 'sizes' in case:
    queue = queue_of(case.queue_init.T, case.ptr_init)
    for t in range(len(case.sizes)):
      queue = jax.jit(ring.enqueue)(queue, case[f'keys_{t}'])
      same_queue(queue, case[f'queue_after_{t}'].T, case[f'ptr_after_{t}'], close, t)
    return
  symmetric = 'x_1' in case
  first, second = (case.x_1, case.x_2) if symmetric else (case.x_q, case.x_k)
  hyper = {'temperature': case.tau, 'momentum': case.m, 'symmetric': symmetric}
  method = make_method(
    'moco', batch_size=first.shape[1], queue_length=case.queue_init.shape[1], **hyper
  )

  def encode(net, x):
    return x @ net['W'].T + net['b'][None]

  def embed(net, target, x1, x2):
    if symmetric:
      return Out(*(jnp.stack([encode(n, x1), encode(n, x2)], 1) for n in (net, target)))
    return Out(encode(net, x1)[:, None], encode(target, x2)[:, None])

  @jax.jit
  def call(net, state, next_net, x1, x2):
    target = state['target']['params']['backbone']

    def loss(net):
      out = embed(net, target, x1, x2)
      value, carry, _ = method.loss(
        out, state, Batch(), jax.random.key(0), jnp.zeros([], jnp.int32)
      )
      return value, (carry, out)

    (value, (carry, out)), grad = jax.value_and_grad(loss, has_aux=True)(net)
    logits = losses.queue_logits(
      out.online[:, 0], out.target[:, -1], state['queue']['rows'], temperature=case.tau
    )
    carry = {**NO_STATISTICS, **carry}
    _, state = method.post_update({'backbone': next_net}, state, carry, jnp.zeros([], jnp.int32))
    return value, grad, logits, carry['keys'], state

  # The archive averages before the keys of call t; the method does so at the end of step t - 1.
  nets = [{'W': jnp.asarray(w), 'b': jnp.asarray(b)} for w, b in zip(case.Wq, case.bq, strict=True)]
  start = {'W': jnp.asarray(case.Wk_init), 'b': jnp.asarray(case.bk_init)}
  start = {'backbone': ema.update(start, nets[0], case.m)}
  state = {
    'batch_stats': {},
    'target': {'params': start, 'batch_stats': {}},
    'queue': queue_of(case.queue_init.T, case.ptr_init),
  }
  for t, net in enumerate(nets):
    target = state['target']['params']['backbone']
    close(target['W'], case.Wk_after[t], f'Wk_after {t}')
    close(target['b'], case.bk_after[t], f'bk_after {t}')
    following = nets[min(t + 1, len(nets) - 1)]
    value, grad, logits, keys, state = call(net, state, following, first[t], second[t])
    close(value, case.loss[t], f'loss {t}')
    close(grad['W'], case.grad_Wq[t], f'grad_Wq {t}')
    close(grad['b'], case.grad_bq[t], f'grad_bq {t}')
    if not symmetric:
      close(logits, case.logits[t], f'logits {t}')
      close(keys, case.k[t], f'k {t}')
    same_queue(state['queue'], case.queue_after[t].T, case.ptr_after[t], close, t)


def c_mocov2plus(case, close):
  queue0 = np.swapaxes(case.queue0, 1, 2)
  method = make_method(
    'moco_v2plus',
    batch_size=case.q1.shape[1],
    queue_length=queue0.shape[1],
    temperature=case.temperature,
  )
  step, state = method_step(method), {**NO_NETWORK, 'queue': queue_of(queue0)}

  @jax.jit
  @jax.value_and_grad
  def free(q, k, queue):
    rows = [
      losses.queue_infonce(
        q[v], k[1 - v], queue[1 - v], temperature=case.temperature, normalize=False
      )
      for v in range(2)
    ]
    return jnp.stack(rows).mean()

  for t in range(len(case.loss)):
    q, k = ((case[f'{n}1'][t], case[f'{n}2'][t]) for n in 'qk')
    expected = np.stack([case.grad_q1[t], case.grad_q2[t]])
    value, grad = free(np.stack(q), np.stack(k), state['queue']['rows'])
    close(value, case.loss[t], f'loss {t}')
    close(grad, expected, f'grad_q {t}')
    value, grad, state = step(Out(views(*q), views(*k)), state)
    close(value, case.loss[t], f'method loss {t}')
    for v in range(2):
      close(grad.online[:, v], through_unit(q[v], expected[v]), f'method grad_q{v + 1} {t}')
      close(grad.target[:, v], case[f'grad_k{v + 1}'][t], f'grad_k{v + 1} {t}')
    rows = np.swapaxes(case.queue_after[t], 1, 2)
    same_queue(state['queue'], rows, case.ptr_after[t], close, t)


def c_nnclr(case, close):
  method = make_method(
    'nnclr',
    batch_size=case.z1.shape[1],
    queue_length=len(case.queue0),
    temperature=case.temperature,
  )
  step, state = method_step(method), {'batch_stats': {}, 'queue': queue_of(case.queue0)}
  for t in range(len(case.loss)):
    z, p = ((case[f'{n}1'][t], case[f'{n}2'][t]) for n in 'zp')
    for v in range(2):
      index = losses.nearest(z[v], state['queue']['rows'])
      np.testing.assert_array_equal(index, case[f'nn_idx{v + 1}'][t])
    value, grad, state = step(Out(views(*p), views(*z)), state)
    close(value, case.loss[t], f'loss {t}')
    for v in range(2):
      close(grad.online[:, v], case[f'grad_p{v + 1}'][t], f'grad_p{v + 1} {t}')
      close(grad.target[:, v], case[f'grad_z{v + 1}'][t], f'grad_z{v + 1} {t}')
    same_queue(state['queue'], case.queue_after[t], case.ptr_after[t], close, t)


def c_infomin(case, close):
  method = make_method(
    'infomin',
    batch_size=case.q.shape[1],
    queue_length=len(case.queue0),
    temperature=case.temperature,
    jigsaw_weight=case.beta,
  )
  step, state = method_step(method), {**NO_NETWORK, 'queue': queue_of(case.queue0)}
  for t, (q, k, jigsaw) in enumerate(zip(case.q, case.k, case.q_jig, strict=True)):
    out = Out(views(q), views(k), extra={'jigsaw': jnp.asarray(jigsaw)})
    _, _, metrics = method.loss(out, state, Batch(), jax.random.key(0), t)
    close(metrics['loss_main'], case.loss_main[t], f'loss_main {t}')
    close(metrics['loss_jigsaw'], case.loss_jig[t], f'loss_jig {t}')
    value, grad, state = step(out, state)
    close(value, case.loss[t], f'loss {t}')
    # The archive differentiates with respect to unit rows.
    close(grad.online[:, 0], through_unit(q, case.grad_q[t]), f'grad_q {t}')
    close(grad.extra['jigsaw'], through_unit(jigsaw, case.grad_q_jig[t]), f'grad_q_jig {t}')
    close(grad.target[:, 0], case.grad_k[t], f'grad_k {t}')
    same_queue(state['queue'], case.queue_after[t], case.ptr_after[t], close, t)


def a_dynmoco(case, close):
  variants = {
    'clean': {},
    'seed': {'temperature_twice': True, 'combine': 'sum', 'first_visit': 'none'},
  }
  for variant, options in variants.items():
    method = make_method(
      'dynamic_moco',
      batch_size=case.h1.shape[1],
      num_examples=case.N,
      queue_length=case.K,
      temperature=case.tau,
      gamma=case.gamma,
      **options,
    )
    step = method_step(method)
    u = np.zeros(1024 * -(-case.N // 1024), case.h1.dtype)
    u[: case.N] = case.u_init
    with np.errstate(divide='ignore'):
      tables = {'log_u': jnp.asarray(np.log(u))}
    queue = queue_of(case.queue_init.T, case.ptr_init)
    state = {**NO_NETWORK, 'per_example': tables, 'queue': queue}
    for t in range(len(case.h1)):
      # k1 is the key of view 2, which pairs with query 1.
      out = Out(views(case.h1[t], case.h2[t]), views(case.k2[t], case.k1[t]))
      if variant == 'clean':
        unseen = np.isneginf(state['per_example']['log_u'][case.index[t]])
        close(np.where(unseen, 1.0, case.gamma), case.clean_gamma[t], f'gamma {t}')
      value, grad, state = step(out, state, t, case.index[t])
      close(value, case[f'{variant}_loss'][t], f'{variant} loss {t}')
      for v in range(2):
        expected = case[f'{variant}_grad_h{v + 1}'][t]
        close(grad.online[:, v], expected, f'{variant} grad_h{v + 1} {t}')
      np.testing.assert_array_equal(grad.target, 0)
      table = np.exp(state['per_example']['log_u'][: case.N])
      close(table, case[f'{variant}_u_after'][t], f'{variant} u_after {t}')
      same_queue(state['queue'], case.queue_after[t].T, case.ptr_after[t], close, t)
