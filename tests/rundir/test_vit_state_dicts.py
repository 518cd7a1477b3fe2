"""Files of vision transformers: layouts of timm, MoCo v3 and DINO, with synthetic weights."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from clr_jax import models
from clr_jax.core.errors import UserError
from clr_jax.models.torch_names import Backbone, to_torch
from clr_jax.rundir.state_dicts import load_backbone

SMALL = {'width': 8, 'depth': 1, 'heads': 2, 'patch': 4}


def params_at(size, **options):
  """Random parameters of a ViT for images of this size, below 'backbone'."""
  net, images = models.vit_tiny(**SMALL, **options), np.zeros([1, size, size, 3], np.float32)
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), images, train=False))['params']
  rng = np.random.default_rng(size)
  return {'backbone': jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)}


LAYOUTS = {
  'timm': lambda t: {**t, 'head.weight': np.ones((10, 8)), 'head.bias': np.ones(10)},
  'moco v3': lambda t: {
    **{f'module.momentum_encoder.{k}': v + 1 for k, v in t.items()},
    **{f'module.base_encoder.{k}': v for k, v in t.items()},
    'module.base_encoder.head.0.weight': np.ones((4, 4)),
    'module.predictor.0.weight': np.ones((4, 4)),
  },
  "dino's teacher": lambda t: {
    **{f'backbone.{k}': v for k, v in t.items()},
    'head.last_layer.weight_g': np.ones((4, 1)),
  },
  "dino's student": lambda t: {f'module.backbone.{k}': v for k, v in t.items()},
}


def write(path, params, layout='timm'):
  tensors = LAYOUTS[layout](to_torch(Backbone(params['backbone'], {})))
  save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
  return path


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(tmp_path, layout):
  params = params_at(8)
  zeros = jax.tree.map(np.zeros_like, params)
  path = write(tmp_path / 'x.safetensors', params, layout)
  read, statistics, report = load_backbone(path, zeros, {'projector': {}})
  jax.tree.map(np.testing.assert_array_equal, read, params)
  assert statistics == {'projector': {}} and '18 of 18 arrays' in report


def test_positions_of_another_number_of_patches(tmp_path):
  path = write(tmp_path / 'x.safetensors', params_at(16))
  with pytest.raises(UserError, match=r'other positions .*: set model.patch and augment.size'):
    load_backbone(path, params_at(8), {})


def test_moco_v3s_fixed_positions_are_not_parameters(tmp_path):
  params = params_at(8, positions='sine_cosine')
  with_positions = {'backbone': {**params['backbone'], 'pos_embed': np.zeros((1, 5, 8))}}
  path = write(tmp_path / 'x.safetensors', with_positions, 'moco v3')
  read, _, report = load_backbone(path, jax.tree.map(np.zeros_like, params), {})
  jax.tree.map(np.testing.assert_array_equal, read, params)
  assert '17 of 17 arrays' in report
