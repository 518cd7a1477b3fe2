"""Checker for the loss between two modalities (archive a_gclv2)."""

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.losses.bimodal import bimodal_sogclr, init_state

STATE = {
  'u1': ('a', 'log_u'),
  'u2': ('b', 'log_u'),
  'b1': ('a', 'shift'),
  'b2': ('b', 'shift'),
  'tau_img': ('a', 'temperature'),
  'tau_txt': ('b', 'temperature'),
  'grad_tau_img': ('a', 'momentum'),
  'grad_tau_txt': ('b', 'momentum'),
}


def a_gclv2(case, close):
  options = {k: case[k] for k in ('scheme', 'gamma', 'rho', 'eta', 'beta') if k in case}
  if 'tau_min' in case:
    options['temperature_range'] = (case.tau_min, case.tau_max)
  individual = case.scheme == 'individual_learnable'
  state = init_state(case.N, scheme=case.scheme, temperature=case.tau_init)
  state = jax.tree.map(lambda x: x.astype(case.z_img.dtype), state)
  if individual:  # a float32 table would round the start
    for side in state.values():
      side['temperature'] = jnp.full_like(side['temperature'], case.tau_init)

  @jax.jit
  def call(inputs, index, state):
    def loss(inputs):
      z_img, z_txt, tau = inputs
      result = bimodal_sogclr(
        z_img,
        z_txt,
        index,
        state,
        temperature=None if individual else tau,
        first_visit='per_batch',
        **options,
      )
      return result.loss, result.state

    return jax.value_and_grad(loss, has_aux=True)(inputs)

  for t, index in enumerate(case.index):
    fresh = np.isneginf(state['a']['log_u'][index]).all()
    close(1.0 if fresh else case.gamma, case.gamma_used[t], f'gamma {t}')
    tau = jnp.asarray(case.tau_init, case.z_img.dtype)
    (value, state), grads = call((case.z_img[t], case.z_txt[t], tau), index, state)
    close(value, case.loss[t], f'loss {t}')
    close(grads[0], case.grad_img[t], f'grad_img {t}')
    close(grads[1], case.grad_txt[t], f'grad_txt {t}')
    if 'grad_tau' in case:
      close(grads[2], case.grad_tau[t], f'grad_tau {t}')
    for name, (side, table) in STATE.items():
      if f'{name}_after' in case:
        rows = np.asarray(state[side][table][: case.N])
        rows = np.exp(rows) if table == 'log_u' else rows
        close(rows, case[f'{name}_after'][t], f'{name}_after {t}')
