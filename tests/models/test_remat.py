"""Rematerialized blocks: the same names, numbers and statistics in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import models
from clr_jax.models.resnet import architecture

BLOCKS = architecture((1, 2), width=4, stem='cifar')
IMAGES = np.random.default_rng(1).uniform(size=(8, 8, 8, 3)).astype('float32')


def init(model):
  return jax.jit(lambda key: model.init(key, IMAGES, train=False))(jax.random.key(0))


def loss(model, params, batch_stats, images):
  """(number, the collections that the training pass left behind)."""
  variables = {'params': params, 'batch_stats': batch_stats}
  h, left = model.apply(variables, images, train=True, groups=2, mutable=['batch_stats', 'stages'])
  return jnp.sin(h).sum(), left


def gradient(model):
  return jax.jit(jax.value_and_grad(functools.partial(loss, model), argnums=(0, 2), has_aux=True))


@pytest.mark.slow
def test_remat_changes_neither_names_nor_numbers(x64):
  plain, remat = BLOCKS(), BLOCKS(remat=True)
  variables = init(plain)
  jax.tree.map(np.testing.assert_array_equal, init(remat), variables)
  variables = jax.tree.map(lambda v: v.astype('float64'), variables)
  images = IMAGES.astype('float64')
  expected, actual = (
    gradient(m)(variables['params'], variables['batch_stats'], images) for m in (plain, remat)
  )
  assert set(actual[0][1]) == {'batch_stats', 'stages'}
  moved = jax.tree.map(np.array_equal, actual[0][1]['batch_stats'], variables['batch_stats'])
  assert not any(jax.tree.leaves(moved))

  def close(path, a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11, err_msg=jax.tree_util.keystr(path))

  jax.tree_util.tree_map_with_path(close, actual, expected)


@pytest.mark.slow
def test_remat_keeps_little_for_the_backward_pass():
  """In bytes that JAX keeps. XLA's analysis tells nothing here: for CPUs it drops the barriers that
  separate the second computation from the first, and merges much of the two.
  """
  make = architecture((3,), bottleneck=True, width=4, stem='cifar')
  images = jax.ShapeDtypeStruct((64, 16, 16, 3), 'float32')

  def kept(**options):
    model = make(**options)
    shapes = jax.eval_shape(functools.partial(init, model))
    start = functools.partial(jax.vjp, functools.partial(loss, model), has_aux=True)
    _, backward, _ = jax.eval_shape(start, shapes['params'], shapes['batch_stats'], images)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(backward))

  remat = kept(remat=True)
  assert remat < 0.3 * kept()
  one_map = 64 * 16 * 16 * 4 * 4  # the stem's output in bytes; those of the blocks are 4 times that
  assert remat < 16 * one_map


def test_every_backbone_has_the_option():
  for name in models.names():
    assert models.make(name, remat=True).remat and not models.make(name).remat
