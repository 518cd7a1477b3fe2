"""A small network's parameters and gradients, and steps of an optimizer on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clr_jax import optim

STEPS = 4
ALL = ('sgd', 'lars', 'adam', 'adamw')
SAMS = ({}, {'rho': 0.1}, {'rho': 1.0, 'adaptive': True}, {'name': 'noise_sam', 'eps': 0.1})
OTHER_NORMS = ({'rho': 0.1, 'norm': 'inf'}, {'rho': 0.1, 'norm': '1'})


def make_params(seed=0, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(seed), 4)
  return {
    'backbone': {
      'conv': {'kernel': jax.random.normal(keys[0], [3, 3, 2, 4], dtype)},
      'norm': {'scale': jnp.ones([4], dtype), 'bias': jnp.zeros([4], dtype)},
    },
    'projector': {'kernel': jax.random.normal(keys[1], [4, 3], dtype), 'bias': jnp.ones(3, dtype)},
    'probe': {'kernel': jax.random.normal(keys[2], [4, 2], dtype)},
  }


def make_grads(t, params):
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.fold_in(jax.random.key(9), t), len(leaves))
  return tree.unflatten(
    [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
  )


def run(tx, params, num_steps=STEPS):
  """Given gradients that do not depend on the parameters; all states and parameters visited."""
  update = jax.jit(functools.partial(tx.update, grad_fn=lambda p, i: make_grads(7, p)))
  state, visited = tx.init(params), []
  for t in range(num_steps):
    updates, state = update(make_grads(t, params), state, params)
    params = optax.apply_updates(params, updates)
    visited.append((params, state))
  return visited


def assert_equal(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def sgd(groups=None, **options):
  options = {'learning_rate': 0.1, 'weight_decay': 0.01, **options}
  return optim.make('sgd', groups or {}, **options)
