"""Losses of the methods that take plug-ins, on embeddings without a network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import methods
from clr_jax.core.errors import UserError
from clr_jax.core.options import keyword_only
from clr_jax.core.types import Batch, Out, RunInfo
from clr_jax.ops.similarity import l2_normalize
from clr_jax.plugins import PLUGINS
from clr_jax.plugins.pipeline import NONE
from tests import method_cases, toy

BATCH, DIM, EXAMPLES = 8, 16, 40
INFO = RunInfo(EXAMPLES, 4, BATCH, 2, EXAMPLES // BATCH, 50)  # 5 steps an epoch, 10 epochs
# SwAV takes those that move embeddings, before its prototypes: tests/methods/test_swav.py.
TAKING = [
  n for n in methods.names() if n != 'swav' and 'plugins' in keyword_only(methods.factory(n))
]
WITHOUT_NEGATIVES = {'simsiam', 'byol'}
WITHOUT_SOFTMAX = {*WITHOUT_NEGATIVES, 'sogclr', 'isogclr', 'dynamic_moco', 'real'}
# One in-batch, one with a queue, one without negatives, one with a table; the others are slow.
FAST = ('simclr', 'moco', 'simsiam', 'sogclr')
each_method = pytest.mark.parametrize(
  'name', [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in TAKING]
)


def plugin(name, **options):
  """{name: the plug-in}, as a method takes it."""
  return {name: PLUGINS.make(name, INFO, **options)}


def make(name, plugins, info=INFO, **options):
  small = method_cases.options(name, out_dim=DIM, queue_length=24)
  return methods.factory(name)(toy.Tiny(), info, plugins=plugins, **small, **options)


def inputs(name):
  """Embeddings and state as the method's own loss takes them, without a network."""
  rng = np.random.default_rng(0)
  views = 1 if name in ('moco', 'infomin') else 2
  rows = rng.normal(size=[EXAMPLES, 24, DIM])
  out = Out(
    online=jnp.asarray(rng.normal(size=[BATCH, views, DIM])),
    target=jnp.asarray(rng.normal(size=[BATCH, views, DIM])),
    h=jnp.ones([BATCH, views, 4]),
    extra={'jigsaw': jnp.asarray(rng.normal(size=[BATCH, DIM]))},
  )
  queue = l2_normalize(jnp.asarray(rows[:2] if name == 'moco_v2plus' else rows[0]))
  log_u = jnp.where(jnp.arange(1024) < 4, 0.3, -jnp.inf)
  tables = {'log_u': log_u, 'temperature': jnp.full(1024, 0.2), 'momentum': jnp.zeros(1024)}
  state = {
    'queue': {'rows': queue, 'ptr': jnp.zeros([], jnp.int32)},
    'per_example': tables,
    'radius': jnp.asarray(0.5),
  }
  return out, state, Batch(index=jnp.arange(BATCH), label=jnp.arange(BATCH) % 4)


def value_and_grad(name, plugins):
  """step -> (loss, its gradient), one program."""
  out, state, batch = inputs(name)
  method = make(name, plugins)

  @jax.jit
  @jax.value_and_grad
  def loss(online, step):
    return method.loss(out._replace(online=online), state, batch, jax.random.key(5), step)[0]

  def at(step):
    value, grad = loss(out.online, np.int32(step))
    return float(value), np.asarray(grad)

  return at


@functools.cache
def plain(name):
  """Without plug-ins, at step 0."""
  return value_and_grad(name, NONE)(0)


def acts_or_is_refused(name, plugins, *, refused, same_value=False):
  """The plug-ins change the gradient of the method `name`, or its facts refuse them."""
  if refused:
    with pytest.raises(UserError, match=f'{name}.*set plugins'):
      make(name, plugins)
    return
  value, grad = value_and_grad(name, plugins)(0)
  plain_value, plain_grad = plain(name)
  assert np.isfinite(value) and np.isfinite(grad).all()
  assert np.abs(grad - plain_grad).max() > 1e-6 * np.abs(plain_grad).max()
  if same_value:
    assert value == pytest.approx(plain_value, rel=1e-12)


def starts_at(name, plugins, first):
  """The plug-ins act from the step `first` on, and not before."""
  plain_value, plain_grad = plain(name)
  at = value_and_grad(name, plugins)
  for step in (0, first - 1):
    value, grad = at(step)
    assert value == pytest.approx(plain_value, rel=1e-12)
    np.testing.assert_allclose(grad, plain_grad, rtol=1e-9, atol=1e-12)
  assert np.abs(at(first)[1] - plain_grad).max() > 1e-6
