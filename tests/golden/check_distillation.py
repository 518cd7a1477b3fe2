"""Checkers for methods with an EMA target (c_byol, c_mocov3, c_ressl, c_dino)."""

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax import methods, models
from clr_jax.core.types import Batch, Out, RunInfo
from clr_jax.losses import distillation as losses


def make_method(name, *, batch_size, num_examples=None, steps_per_epoch=1, epochs=10, **hyper):
  """A method whose loss and post_update can be called; its networks are never initialized."""
  info = RunInfo(
    num_examples=num_examples or 1000,
    num_classes=None,
    batch_size=batch_size,
    num_views=2,
    steps_per_epoch=steps_per_epoch,
    total_steps=epochs * steps_per_epoch,
  )
  return methods.factory(name)(models.make('resnet_tiny'), info, **hyper)


NO_NETWORK = {'batch_stats': {}, 'target': {'params': {}, 'batch_stats': {}}}
NO_STATISTICS = {'batch_stats': {}, 'target_stats': {}}


def method_step(method):
  """(out, state, step, index) -> loss, its gradient with respect to `out`, the next state."""

  @jax.jit
  def call(out, state, step, index):
    def loss(out):
      value, carry, _ = method.loss(out, state, Batch(index=index), jax.random.key(0), step)
      return value, carry

    (value, carry), grad = jax.value_and_grad(loss, has_aux=True)(out)
    _, state = method.post_update({}, state, {**NO_STATISTICS, **carry}, step)
    return value, grad, state

  return lambda out, state, step=0, index=None: call(
    jax.tree.map(jnp.asarray, out), state, step, index
  )


def views(*arrays):
  """[B, ...] of each view -> [B, V, ...]."""
  return np.stack(arrays, 1)


def through_unit(x, grad):
  """A gradient with respect to unit rows x, seen by a loss that normalizes inside."""
  x = np.asarray(x)
  length = np.linalg.norm(x, axis=-1, keepdims=True)
  u = x / length
  return (grad - u * (u * grad).sum(-1, keepdims=True)) / length


def c_byol(case, close):
  online, target = (np.swapaxes(x, 0, 1) for x in (case.predictions, case.targets))
  one_way = method_step(make_method('byol', batch_size=len(online), symmetric=False))
  for i, v in zip(*np.nonzero(np.isfinite(case.pair_loss)), strict=True):
    value, _, _ = one_way(Out(online[:, v, None], target[:, i, None]), NO_NETWORK)
    close(value, case.pair_loss[i, v], f'pair_loss {i} {v}')
  count = np.isfinite(case.pair_loss).sum()
  for scale, expected in ((1.0, case.loss), (1 / count, case.loss_mean_over_pairs)):
    method = make_method('byol', batch_size=len(online), loss_scale=scale)
    value, grad, _ = method_step(method)(Out(online, target), NO_NETWORK)
    close(value, expected, f'loss times {scale}')
    close(np.swapaxes(grad.online, 0, 1), case.grad_predictions * scale, 'grad_predictions')
    close(np.swapaxes(grad.target, 0, 1), case.grad_targets, 'grad_targets')


def c_mocov3(case, close):
  method = make_method('moco_v3', batch_size=len(case.q1), temperature=case.temperature)
  out = Out(views(case.q1, case.q2), views(case.k1, case.k2))
  value, grad, _ = method_step(method)(out, NO_NETWORK)
  close(value, case.loss, 'loss')
  for i in range(2):
    close(grad.online[:, i], case[f'grad_q{i + 1}'], f'grad_q{i + 1}')
    close(grad.target[:, i], case[f'grad_k{i + 1}'], f'grad_k{i + 1}')
  options = {'temperature': case.temperature, 'symmetric': False}
  one_way = method_step(make_method('moco_v3', batch_size=len(case.q1), **options))
  for q, k in (('q1', 'k2'), ('q2', 'k1')):
    value, _, _ = one_way(Out(case[q][:, None], case[k][:, None]), NO_NETWORK)
    close(value, case[f'loss_{q}_{k}'], f'loss_{q}_{k}')


def c_ressl(case, close):
  method = make_method(
    'ressl',
    batch_size=case.q.shape[1],
    queue_length=len(case.queue0),
    temperature_q=case.temperature_q,
    temperature_k=case.temperature_k,
  )
  step = method_step(method)
  queue = {'rows': jnp.asarray(case.queue0), 'ptr': jnp.zeros([], jnp.int32)}
  state = {**NO_NETWORK, 'queue': queue}

  @jax.jit
  @jax.value_and_grad
  def free(qk, queue):
    temperatures = {'temperature_q': case.temperature_q, 'temperature_k': case.temperature_k}
    return losses.ressl(*qk, queue, normalize=False, **temperatures).mean()

  for t, (q, k) in enumerate(zip(case.q, case.k, strict=True)):
    value, grads = free((q, k), state['queue']['rows'])
    close(value, case.loss[t], f'loss {t}')
    close(grads[0], case.grad_q[t], f'grad_q {t}')
    close(grads[1], case.grad_k[t], f'grad_k {t}')
    value, grad, state = step(Out(views(q), views(k)), state)
    close(value, case.loss[t], f'method loss {t}')
    close(grad.online[:, 0], through_unit(q, case.grad_q[t]), f'method grad {t}')
    close(grad.target[:, 0], case.grad_k[t], f'method grad of the key {t}')
    close(state['queue']['rows'], case.queue_after[t], f'queue_after {t}')
    assert int(state['queue']['ptr']) == case.ptr_after[t]


def c_dino(case, close):
  per_epoch, batch = 3, case.teacher_logits.shape[1] // 2
  method = make_method(
    'dino',
    batch_size=batch,
    steps_per_epoch=per_epoch,
    epochs=case.num_epochs,
    num_prototypes=case.teacher_logits.shape[2],
    student_temperature=case.student_temp,
    teacher_temperature=case.teacher_temp,
    warmup_teacher_temperature=case.warmup_teacher_temp,
    warmup_teacher_epochs=case.warmup_teacher_temp_epochs,
    center_momentum=case.center_momentum,
  )
  step = method_step(method)

  def sample_major(rows):  # row v * N + n
    return np.swapaxes(rows.reshape(-1, batch, rows.shape[-1]), 0, 1)

  state = {**NO_NETWORK, 'center': jnp.asarray(case.center_before[0])}
  for t, epoch in enumerate(case.epochs):
    student, teacher = sample_major(case.student_logits[t]), sample_major(case.teacher_logits[t])
    assert student.shape[1] == case.n_student_views
    out = Out(jnp.asarray(student), jnp.asarray(teacher))
    close(state['center'], case.center_before[t], f'center_before {t}')
    number = int(epoch) * per_epoch + per_epoch - 1  # the last step of the epoch
    _, _, metrics = method.loss(out, state, Batch(), None, number)
    close(metrics['teacher_temperature'], case.teacher_temp_used[t], f'temperature {t}')
    value, grad, state = step(out, state, number)
    close(value, case.loss[t], f'loss {t}')
    close(state['center'], case.center_after[t], f'center_after {t}')
    for name, x in (('student', grad.online), ('teacher', grad.target)):
      expected = sample_major(case[f'grad_{name}_logits'][t])
      close(x, expected, f'grad_{name}_logits {t}')
  out = Out(jnp.ones([1, 2, 4]), jnp.ones([1, 2, 4]))
  state = {'center': jnp.zeros(4)}
  table = [
    method.loss(out, state, Batch(), None, e * per_epoch)[2]['teacher_temperature']
    for e in range(case.num_epochs)
  ]
  close(table, case.teacher_temp_schedule, 'teacher_temp_schedule')
