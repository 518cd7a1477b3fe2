"""The peer's vision transformers compute what ours do. No time is tested."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import models
from clr_jax.core.errors import UserError
from clr_jax.experiment import config_base
from clr_jax.experiment.config_files import load
from clr_jax.models.torch_names import Backbone, to_torch

torch = pytest.importorskip('torch')

SMALL = {'width': 8, 'depth': 2, 'heads': 2, 'patch': 4, 'mean': (0.3,), 'std': (0.2,)}


def backbone(like, channels=1, size=8):
  from clr_jax.bench.torch_reference import backbones

  return backbones.make(like, channels, size)


@pytest.mark.slow
@pytest.mark.parametrize(
  'options', [{}, {'pool': 'mean', 'positions': 'sine_cosine', 'patch_projection': 'fixed'}]
)
def test_features_and_gradients_are_ours(x64, options):
  like, rng = models.vit_tiny(**SMALL, **options), np.random.default_rng(0)
  images = rng.uniform(size=(3, 8, 8, 1))
  init = functools.partial(like.init, train=False)
  shapes = jax.eval_shape(init, jax.random.key(0), jnp.asarray(images))['params']
  params = jax.tree.map(lambda x: rng.normal(size=x.shape), shapes)

  def squares(params):
    h = like.apply({'params': params}, jnp.asarray(images), train=False)
    return (h**2).sum(), h

  (_, expected), gradients = jax.jit(jax.value_and_grad(squares, has_aux=True))(params)
  theirs = backbone(like).double()
  weights = {k: torch.tensor(v) for k, v in to_torch(Backbone(params, {})).items()}
  missing, unexpected = theirs.load_state_dict(weights, strict=False)
  assert not unexpected and missing == (['pos_embed'] if options else [])
  found = theirs(torch.tensor(images).permute(0, 3, 1, 2))
  np.testing.assert_allclose(found.detach(), expected, rtol=1e-6)
  (found**2).sum().backward()
  trained = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
  for name, value in to_torch(Backbone(gradients, {})).items():
    if name in trained:
      np.testing.assert_allclose(trained[name].grad, value, rtol=1e-5, atol=1e-9)
    else:
      assert options and name.startswith('patch_embed') and not value.any()


def test_stochastic_depth_keeps_the_mean():
  from clr_jax.bench.torch_reference.vit import Block

  module = Block(models.make('vit_tiny', **SMALL), 0.25)
  torch.manual_seed(0)
  kept = module._kept(torch.ones(4000, 1, 1))
  assert set(kept.flatten().tolist()) == {0.0, np.float32(4 / 3)} and abs(kept.mean() - 1) < 0.05
  assert module.eval()._kept(torch.ones(4, 1, 1)).eq(1).all()


def test_other_backbones_are_refused():
  with pytest.raises(UserError, match=r'--peer has no Dense in PyTorch: set config\.model\.name'):
    backbone(nn.Dense(1))


@pytest.mark.weekly
def test_both_are_measured_in_turns():
  from clr_jax.bench.torch_reference import compare

  config = load('tests/tiny.py:simclr')
  config.model = config_base.model('vit_tiny', **SMALL)
  report = compare.compare(config, repeats=2, steps=2)
  assert report['backbone_parameters']['clr_jax'] == report['backbone_parameters']['torch'] > 1000
