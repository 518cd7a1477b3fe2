"""The facts that methods state about themselves, which wrappers trust."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.types import PAIRS
from tests import toy
from tests.method_cases import NAMES, SKELETONS

KEY, STEP = jax.random.key(0), jnp.zeros([], jnp.int32)


def random(seed, tree):
  """Numbers in the shapes of `tree`: normal, and 0 for whole ones."""
  rng = np.random.default_rng(seed)

  def fill(x):
    real = jnp.issubdtype(x.dtype, jnp.floating)
    return jnp.asarray(rng.normal(size=x.shape) if real else np.zeros(x.shape), x.dtype)

  return jax.tree.map(fill, tree)


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=[pytest.mark.slow] * (n not in SKELETONS)) for n in NAMES]
)
def test_facts(name):
  """Its name, a known kind of pairs, and whether views are independent: by the gradient of one."""
  method = toy.method(name, toy.Tiny())
  assert method.name == name and method.pairs in PAIRS and method.stage_losses is None
  batch = toy.viewed(name)

  def embed(batch):
    params, state = method.init(KEY, batch)
    return method.embed(params, state, batch, KEY, STEP)[0], state

  out, state = random(1, jax.eval_shape(embed, batch))
  others = random(2, jax.eval_shape(lambda: out))
  others = others._replace(online=others.online.at[0, 0].set(out.online[0, 0]))

  @jax.jit
  def gradient(out):
    """Derivative of the loss by the first view of the first image."""

    def loss(online):
      return method.loss(out._replace(online=online), state, batch, KEY, STEP)[0]

    return jax.grad(loss)(out.online)[0, 0]

  found, with_others = gradient(out), gradient(others)
  scale = np.abs(found).max()
  assert scale > 0 and np.isfinite(found).all()
  same = np.abs(found - with_others).max() < 1e-5 * scale
  assert same == method.independent
