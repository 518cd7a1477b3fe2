"""Checker for methods with prototypes (archive c_swav)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clr_jax import optim
from clr_jax.core.types import Batch, Out
from clr_jax.losses import clustering
from clr_jax.models.heads import Prototypes
from clr_jax.ops.similarity import l2_normalize, similarity
from clr_jax.ops.sinkhorn import sinkhorn
from tests.golden.check_distillation import make_method, through_unit


def c_swav(case, close):
  codes = sinkhorn(case.sk_scores, epsilon=case.epsilon, iterations=case.sinkhorn_iterations)
  close(codes, case.sk_assignments, 'sk_assignments')
  official_loop(case, close)
  solo_step(case, close)


def make(case, *, batch_size, queue_length):
  return make_method(
    'swav',
    batch_size=batch_size,
    num_prototypes=case.W_normalized.shape[1],
    temperature=case.temperature,
    epsilon=case.epsilon,
    sinkhorn_iterations=case.sinkhorn_iterations,
    freeze_prototypes_steps=case.freeze_prototypes_steps,
    queue_length=queue_length,
    queue_start_epoch=0,
    out_dim=case.raw.shape[-1],
  )


def loss_and_grads(method):
  """(projections [V, B, D], prototypes, state, step) -> loss, gradients of both, carry."""

  @jax.jit
  def call(z, weight, state, step):
    def loss(z, weight):
      z = jnp.swapaxes(z, 0, 1)
      scores = Prototypes(num=len(weight)).apply({'params': {'weight': weight}}, z)
      out = Out(scores, jax.lax.stop_gradient(z[:, :2]), extra={'prototypes': weight})
      value, carry, _ = method.loss(out, state, Batch(), None, step)
      return value, carry

    (value, carry), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(z, weight)
    return value, grads, {'batch_stats': {}, **carry}

  return call


def check_codes(case, close, z, weight, queue, used, expected, what):
  """Assignments of the two large crops z [2, B, D], `queue` [2, Q, D] or None beside them."""
  codes = clustering.assignments(
    jnp.swapaxes(similarity(l2_normalize(z), weight), 0, 1),
    None if queue is None else similarity(queue, weight),
    use_queue=bool(used),
    epsilon=case.epsilon,
    iterations=case.sinkhorn_iterations,
  )
  for i, q in enumerate(expected):
    close(codes[:, i], q, f'{what}q{i + 1}')
  return codes


def official_loop(case, close):
  method = make(case, batch_size=case.raw.shape[2], queue_length=case.queue_length)
  call, post_update = loss_and_grads(method), jax.jit(method.post_update)
  params = {'prototypes': {'weight': l2_normalize(case.W_step_start[0])}}
  # The archive's driver takes plain gradient steps.
  tx = optim.make('sgd', method.groups, learning_rate=case.lr, momentum=0.0)
  opt_state = tx.init(params)
  state = {'batch_stats': {}}
  if case.queue_length:
    state['queue'] = jnp.zeros_like(case.queue_after[0])
  for t in range(len(case.loss)):
    frozen = t < case.freeze_prototypes_steps
    weight = params['prototypes']['weight']
    close(weight, case.W_normalized[t], f'W_normalized {t}')
    close(l2_normalize(case.raw[t]), case.z[t], f'z {t}')
    expected = (case.q1[t], case.q2[t])
    queue, used = state.get('queue'), case.queue_used[t]
    check_codes(case, close, case.raw[t, :2], weight, queue, used, expected, f'{t} ')
    value, (grad_raw, grad_w), carry = call(case.raw[t], weight, state, t)
    close(value, case.loss[t], f'loss {t}')
    close(grad_raw, case.grad_raw[t], f'grad_raw {t}')
    if not frozen:
      close(grad_w, case.grad_W_applied[t], f'grad_W {t}')
    updates, opt_state = tx.update({'prototypes': {'weight': grad_w}}, opt_state, params)
    moved = optax.apply_updates(params, updates)
    if not frozen and t + 1 < len(case.loss):
      close(moved['prototypes']['weight'], case.W_step_start[t + 1], f'W_step_start {t + 1}')
    params, state = post_update(moved, state, carry, t)
    if frozen:  # kept to the bit; the driver rescales them to show that each step normalizes
      np.testing.assert_array_equal(params['prototypes']['weight'], weight)
    if case.queue_length:
      close(state['queue'], case.queue_after[t], f'queue_after {t}')


def solo_step(case, close):
  """solo-learn: one call with a full queue; the inputs are unit vectors and free variables."""
  z, weight, queue = (jnp.asarray(case[f'solo_{n}']) for n in ('z', 'W', 'queue_before'))
  expected = (case.solo_q1, case.solo_q2)
  codes = check_codes(case, close, z[:2], weight, queue, True, expected, 'solo_')

  @jax.jit
  @jax.value_and_grad
  def free(z):
    scores = jnp.swapaxes(similarity(z, weight), 0, 1)
    pairs = clustering.swav(scores, codes, temperature=case.temperature)
    return pairs.sum() / (2 * (len(z) - 1))

  value, grad = free(z)
  close(value, case.solo_loss, 'solo_loss')
  close(grad, case.solo_grad_z, 'solo_grad_z')
  length, batch_size = queue.shape[1], z.shape[1]
  method = make(case, batch_size=batch_size, queue_length=length)
  state, full = {'batch_stats': {}, 'queue': queue}, -(-length // batch_size)
  value, (grad, _), carry = loss_and_grads(method)(z, weight, state, full)
  close(value, case.solo_loss, 'solo method loss')
  close(grad, through_unit(z, case.solo_grad_z), 'solo method grad')
  _, state = method.post_update({'prototypes': {'weight': weight}}, state, carry, full)
  close(state['queue'], case.solo_queue_after, 'solo_queue_after')
