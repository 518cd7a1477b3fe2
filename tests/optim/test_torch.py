"""Optimizers against PyTorch's, by arrays that tests/expected/make.py made."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import optim
from tests import expected

OURS = {
  'sgd': lambda: optim.sgd(0.1, 0.01, momentum=0.9, nesterov=False),
  'nesterov': lambda: optim.sgd(0.1, 0.01, momentum=0.9, nesterov=True),
  'adam': lambda: optim.adam(0.01, 0.0, b2=0.95),
  'adamw': lambda: optim.adamw(0.01, 0.1, b2=0.95),
}


@pytest.mark.parametrize('name', OURS)
def test_equals_torch(x64, name):
  arrays = expected.load('optimizers')
  tx, params = OURS[name](), {'kernel': jnp.asarray(arrays['start'])}
  state = tx.init(params)
  for gradient, after in zip(arrays['gradients'], arrays[name], strict=True):
    updates, state = tx.update({'kernel': jnp.asarray(gradient)}, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params['kernel'], after, rtol=1e-9)
