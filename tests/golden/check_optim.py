"""Checkers for optimizers and schedules (archives a_lars, a_sam, a_schedules, c_lars, c_schedules).

The cases of an archive are told apart by the keys that they have.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clr_jax import optim
from clr_jax.ops import ema
from clr_jax.optim import schedules


def trajectory(tx, params, num_steps, *, grads=None, grad_fn=None):
  """Parameters and momentum after each step; gradients given, or from `grad_fn`."""
  state = tx.init(params)
  update = jax.jit(functools.partial(tx.update, grad_fn=grad_fn and (lambda p, _: grad_fn(p))))
  steps, momenta = [], []
  for t in range(num_steps):
    gradient = grad_fn(params) if grads is None else jax.tree.map(lambda g, t=t: g[t], grads)
    updates, state = update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    steps.append(params)
    momenta.append(optax.tree.get(state, 'trace'))
  stack = functools.partial(jax.tree.map, lambda *x: np.stack(x))
  return stack(*steps), stack(*momenta)


def of(case, prefix, names):
  return {n: jnp.asarray(case[f'{prefix}_{n}']) for n in names}


def a_lars(case, close):
  names = [str(n) for n in case.param_names]
  params, grads = of(case, 'p0', names), of(case, 'g', names)
  forms = {'mocov3': 'mocov3', 'simclr': 'simclr', 'solo': 'clipped'}
  momentum_keys = {'mocov3': 'mu', 'simclr': 'mom', 'solo': None}
  lr = jnp.asarray(case.lr)
  for key, form in forms.items():
    tx = optim.lars(
      lambda count: lr[count],
      case.wd,
      momentum=case.momentum,
      form=form,
      trust_coefficient=case.trust_coefficient,
    )
    steps, momenta = trajectory(tx, params, len(lr), grads=grads)
    for n in names:
      close(steps[n], case[f'{key}_p_{n}'], f'{key} {n}')
      if momentum_keys[key]:
        close(momenta[n], case[f'{key}_{momentum_keys[key]}_{n}'], f'{key} momentum of {n}')


def c_lars(case, close):
  params = {'W': jnp.asarray(case.W0), 'b': jnp.asarray(case.b0)}
  grads = {'W': jnp.asarray(case.grads_W), 'b': jnp.asarray(case.grads_b)}
  variants = {
    'sololearn_clip': {'form': 'clipped'},
    'sololearn_noclip_all': {'form': 'unclipped', 'exclude_from_decay': 'none'},
    'barlow_official': {'form': 'mocov3'},
    'mocov3_official': {'form': 'mocov3'},
  }
  for variant, options in variants.items():
    tx = optim.make(
      'lars',
      {},
      learning_rate=case.lr,
      weight_decay=case.weight_decay,
      momentum=case.momentum,
      trust_coefficient=case.eta,
      **options,
    )
    steps, _ = trajectory(tx, params, len(case.grads_W), grads=grads)
    close(steps['W'], case[f'{variant}_W'], f'{variant} W')
    close(steps['b'], case[f'{variant}_b'], f'{variant} b')


def a_sam(case, close):
  if 'A' in case:
    names, losses = ['w'], case.loss
    params, matrix, b = {'w': jnp.asarray(case.w0)}, jnp.asarray(case.A), jnp.asarray(case.b)
    expected = {'perturbed': case.w_perturbed, 'grad': case.grad_perturbed}
    expected = {k: {'w': v} for k, v in expected.items()}
    after = {'w': case.w_after}

    def loss(p):
      return p['w'] @ matrix @ p['w'] / 2 - b @ p['w']
  else:
    names = [k.removeprefix('p0_') for k in case if k.startswith('p0_')]
    params, after = of(case, 'p0', names), of(case, 'after', names)
    losses = case.get('loss', case.get('loss_clean'))
    x, y = jnp.asarray(case.X), jnp.asarray(case.Y)
    expected = {'grad': of(case, 'grad', names)}
    if 'rho' in case:
      expected['perturbed'] = of(case, 'perturbed', names)

    def loss(p):
      hidden = jnp.tanh(x @ p['W1'] + p['b1'][None])
      return jnp.mean((hidden @ p['W2'] + p['b2'][None] - y) ** 2)

  def recorded_base():
    """SGD that also keeps the gradient which SAM hands it."""
    sgd = optim.sgd(case.lr, case.get('wd', 0.0), momentum=case.momentum)
    return optax.chain(optax.snapshot('handed_gradient', lambda g: g), sgd)

  if 'rho' in case:
    tx = optim.sam(recorded_base(), {}, rho=case.rho, adaptive=bool(case.get('adaptive', False)))
  else:
    noise = of(case, 'noise', names)
    tx = optim.with_noise(recorded_base(), lambda t, _: jax.tree.map(lambda n: n[t], noise))

  state, perturbed_at = tx.init(params), []

  def grad_fn(p, _):
    perturbed_at.append(p)
    return jax.grad(loss)(p)

  for t, clean_loss in enumerate(losses):
    close(loss(params), clean_loss, f'loss {t}')
    updates, state = tx.update(jax.grad(loss)(params), state, params, grad_fn=grad_fn)
    params = optax.apply_updates(params, updates)
    seen = {'perturbed': perturbed_at[t], 'grad': optax.tree.get(state, 'handed_gradient')}
    for what, values in expected.items():
      for n in names:
        close(seen[what][n], values[n][t], f'{what} {n} {t}')
    for n in names:
      close(params[n], after[n][t], f'after {n} {t}')
    if 'momentum_after' in case:
      close(optax.tree.get(state, 'trace')['w'], case.momentum_after[t], f'momentum {t}')
    if 'loss_noisy' in case:
      close(loss(perturbed_at[t]), case.loss_noisy[t], f'noisy loss {t}')


def values(schedule, num_steps):
  """Under jit, as the train step computes them, and equal to the values for Python integers."""
  traced = jax.jit(schedule)(jnp.arange(num_steps, dtype=jnp.int32))
  np.testing.assert_allclose(schedule(num_steps - 1), traced[-1], rtol=1e-6, atol=1e-9)
  return np.asarray(traced)


def a_schedules(case, close):
  if 'gamma_min' in case:
    gamma = schedules.cosine_gamma(case.gamma_min, case.decay_epochs)
    close(values(gamma, len(case.gamma)), case.gamma, 'gamma')
    return
  peak = case.base_lr
  if 'batch_size' in case:
    peak = schedules.scaled_lr(
      case.batch_size, learning_rate=case.base_lr, scaling=case.get('scaling', 'linear')
    )
  if 'peak_lr' in case:
    close(peak, case.peak_lr, 'peak')
  if 'steps' in case:
    schedule = schedules.make(
      'simclr',
      peak=peak,
      num_examples=case.num_examples,
      batch_size=case.batch_size,
      warmup_epochs=case.warmup_epochs,
      total_steps=case.epochs * (case.num_examples // case.batch_size),
      steps_per_epoch=case.num_examples // case.batch_size,
    )
    close(jax.jit(schedule)(jnp.asarray(case.steps, jnp.int32)), case.lr, 'lr')
    return
  per_epoch = case.get('iters_per_epoch', 3)  # the tables by epoch hold for any number of steps
  if 'lr_decay_rate' in case and 'warm' in case:
    name, options = 'supcontrast', {'decay_rate': case.lr_decay_rate}
    options['warmup_epochs'] = 10 if case.warm else 0
  elif 'warmup_epochs' in case:
    name, options = 'warmup_cosine', {'warmup_epochs': case.warmup_epochs}
  elif 'batch_size' in case:
    name, options = 'epoch_cosine', {}
  else:
    name, options = 'tcl', {}
    if 'lr_decay_rate' in case:
      options['decay_rate'] = case.lr_decay_rate
  total = case.epochs * per_epoch
  schedule = schedules.make(
    name, peak=peak, steps_per_epoch=per_epoch, total_steps=total, **options
  )
  lr = values(schedule, total).reshape(case.epochs, per_epoch)
  close(lr, case.lr if case.lr.ndim == 2 else np.repeat(case.lr[:, None], per_epoch, 1), 'lr')


def c_schedules(case, close):
  total, base, final = case.total_steps, case.base_tau, case.final_tau
  solo = schedules.solo(
    case.lr,
    total_steps=total,
    warmup_steps=case.warmup_steps,
    start=case.warmup_start_lr,
    end=case.min_lr,
  )
  close(values(solo, total), case.sololearn_lr, 'sololearn_lr')
  tau = values(schedules.ema_cosine(base, final=final, total_steps=total), total)
  close(tau, case.sololearn_tau_used_at_update, 'sololearn tau')
  average = ema.update(jnp.asarray(case.ema_before), jnp.asarray(case.ema_online), case.ema_tau)
  close(average, case.ema_after, 'ema_after')
  mocov3 = schedules.make(
    'warmup_cosine',
    peak=case.lr,
    steps_per_epoch=case.mocov3_steps_per_epoch,
    total_steps=case.mocov3_epochs * case.mocov3_steps_per_epoch,
    warmup_epochs=case.mocov3_warmup_epochs,
  )
  close(values(mocov3, len(case.mocov3_lr)), case.mocov3_lr, 'mocov3_lr')
  for key in ('mocov3_momentum', 'dino_momentum', 'byol_deepmind_tau'):
    tau = schedules.ema_cosine(base, total_steps=len(case[key]))
    close(values(tau, len(case[key])), case[key], key)
  for expected, factor, end in (
    (case.vicreg_lr, case.lr, 0.001),
    (case.barlow_lr_weights_biases[:, 0], 0.2, 0.001),
    (case.barlow_lr_weights_biases[:, 1], 0.0048, 0.001),
  ):
    peak = schedules.scaled_lr(case.batch_size, learning_rate=factor)
    schedule = schedules.make(
      'warmup_cosine',
      peak=peak,
      end=end * peak,
      total_steps=len(expected),
      steps_per_epoch=len(expected) // case.vicreg_epochs,
      warmup_epochs=10,  # of the official code
    )
    close(values(schedule, len(expected)), expected, 'vicreg and barlow')
  steps = len(case.dino_lr)
  warmup = 2 * (steps // case.mocov3_epochs)  # two epochs
  lr = schedules.solo(case.lr, total_steps=steps, warmup_steps=warmup, start=0.0, end=1e-6)
  close(values(lr, steps), case.dino_lr, 'dino_lr')
  decay = schedules.warmup_cosine(0.04, end=0.4, total_steps=steps, warmup_steps=0)
  close(values(decay, steps), case.dino_wd, 'dino_wd')
