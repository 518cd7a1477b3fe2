"""A batch embedded in parts has the loss and the gradient of one embedded at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import models
from clr_jax.core.errors import UserError
from clr_jax.models import siamese
from clr_jax.ops import sharding
from clr_jax.wrappers.accumulate import accumulate
from tests import toy

PARTS = 4


def grouped(monkeypatch):
  """BatchNorm sees `PARTS` times as many groups: those of the parts."""
  apply = siamese.Chain.apply

  def in_groups(self, *args, groups=1, train, **kwargs):
    return apply(self, *args, groups=groups * PARTS if train else groups, train=train, **kwargs)

  monkeypatch.setattr(siamese.Chain, 'apply', in_groups)


def make(name, parts):
  return accumulate(toy.method(name), toy.INFO, parts=parts)


def step(method, mesh=None):
  """(state after the first step, its metrics); SGD's momentum is the gradient."""
  init, train = toy.training(method, mesh=mesh)
  state = toy.wide(jax.jit(init)(jax.random.key(0)))
  state, metrics = jax.jit(train)(state, toy.batch(0))
  return toy.on_host(state), metrics


def same(a, b):
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
    size = np.abs(np.asarray(y))
    scale = max(size[np.isfinite(size)].max(initial=0), 1e-6)
    np.testing.assert_allclose(x, y, atol=1e-8 * scale, rtol=0, err_msg=str(path))


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    'sogclr',
    *(pytest.param(n, marks=pytest.mark.slow) for n in ('moco', 'vicreg')),
    *(pytest.param(n, marks=pytest.mark.weekly) for n in ('byol', 'nnclr', 'dino')),
  ],
)
def test_equals_the_whole_batch_with_the_parts_as_groups(name, x64, monkeypatch):
  found = step(make(name, PARTS))
  plain = step(make(name, 1))
  with monkeypatch.context() as patch:
    grouped(patch)
    expected = step(make(name, 1))
  same(found, expected)
  assert not np.allclose(found[1]['loss'], plain[1]['loss'], rtol=1e-6)  # the groups matter


@pytest.mark.slow
def test_eight_devices_equal_one(x64):
  mesh = sharding.make_mesh()
  assert mesh.size == 8
  method = make('sogclr', 2)
  same(step(method, mesh), step(method))


@pytest.mark.slow
def test_a_loop_is_the_same(x64):
  method = toy.method('moco')
  looped, unrolled = (accumulate(method, toy.INFO, parts=2, unroll=u) for u in (False, True))
  same(step(looped), step(unrolled))


@pytest.mark.slow
def test_memory_is_that_of_a_part():
  """Memory of a network that is dominated by activations."""
  plain = toy.method('simclr', models.make('resnet_tiny', width=32), hidden_dim=8)
  batch = toy.viewed()

  def memory(parts):
    method = accumulate(plain, toy.INFO, parts=parts, unroll=False)
    params, state = jax.eval_shape(method.init, KEY, batch)

    def loss(params, state, views):
      out, _ = method.embed(params, state, batch._replace(views=views), KEY, STEP)
      return method.loss(out, state, batch, KEY, STEP)[0]

    compiled = jax.jit(jax.grad(loss)).lower(params, state, batch.views).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert memory(4) < 0.5 * memory(1)


KEY, STEP = jax.random.key(0), jnp.int32(0)


@pytest.mark.parametrize(('parts', 'says'), [(3, 'must divide'), (0, 'at least 1')])
def test_bad_parts_are_refused(parts, says):
  with pytest.raises(UserError, match=says):
    make('simclr', parts)


def test_one_image_for_a_pass_is_refused():
  with pytest.raises(UserError, match='one image per pass'):
    init, train = toy.training(make('simclr', toy.BATCH))
    jax.eval_shape(train, jax.eval_shape(init, jax.random.key(0)), toy.batch(0))


def test_one_image_for_a_pass_without_statistics():
  options = {'projector': 'solo_simclr', 'hidden_dim': 4}
  method = accumulate(toy.method('simclr', toy.Tiny(), **options), toy.INFO, parts=toy.BATCH)
  init, train = toy.training(method)
  jax.eval_shape(train, jax.eval_shape(init, jax.random.key(0)), toy.batch(0))
