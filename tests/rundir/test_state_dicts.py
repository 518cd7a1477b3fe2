"""Files of other libraries: the layouts that they publish, with synthetic weights."""

import os

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from clr_jax.core.errors import UserError
from clr_jax.models import factory
from clr_jax.models.torch_names import Backbone, from_torch, to_torch
from clr_jax.rundir.state_dicts import (
  backbone_of,
  is_weight_file,
  load_backbone,
  read_state_dict,
)


@pytest.fixture(scope='module')
def weights():
  """A backbone, and its state dict with torchvision's names."""
  module = factory('resnet18')(width=4)
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
  )
  rng = np.random.default_rng(0)
  tree = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
  backbone = Backbone(tree['params'], tree['batch_stats'])
  return backbone, to_torch(backbone)


def children(name):
  """As in `Sequential(*resnet.children())`."""
  number = {'conv1': 0, 'bn1': 1, 'layer1': 4, 'layer2': 5, 'layer3': 6, 'layer4': 7}
  first, rest = name.split('.', 1)
  return f'{number[first]}.{rest}'


LAYOUTS = {
  'torchvision': lambda t: {**t, 'fc.weight': np.ones((10, 32)), 'fc.bias': np.ones(10)},
  'moco': lambda t: {
    **{f'module.encoder_q.{k}': v for k, v in t.items()},
    **{f'module.encoder_k.{k}': v + 1 for k, v in t.items()},
    'module.queue': np.ones((128, 64)),
  },
  'moco v3': lambda t: {
    **{f'module.momentum_encoder.{k}': v + 1 for k, v in t.items()},
    **{f'module.base_encoder.{k}': v for k, v in t.items()},
    'module.predictor.0.weight': np.ones((4, 4)),
  },
  'solo-learn': lambda t: {
    **{f'backbone.{k}': v for k, v in t.items()},
    **{f'momentum_backbone.{k}': v + 1 for k, v in t.items()},
    'classifier.weight': np.ones((10, 32)),
  },
  'lightly': lambda t: {
    **{f'backbone.{children(k)}': v for k, v in t.items()},
    **{f'backbone_momentum.{children(k)}': v + 1 for k, v in t.items()},
    'projection_head.layers.0.weight': np.ones((4, 4)),
  },
  'data parallel': lambda t: {f'module.{k}': v for k, v in t.items()},
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(tmp_path, weights, layout):
  backbone, tensors = weights
  path = tmp_path / 'x.safetensors'
  save_file({k: np.ascontiguousarray(v) for k, v in LAYOUTS[layout](tensors).items()}, path)
  found = backbone_of(read_state_dict(path), tensors)
  assert found.keys() == tensors.keys()
  read, names, missing = from_torch(found, backbone)
  assert not missing and len(names) == len(tensors)
  jax.tree.map(np.testing.assert_array_equal, read, backbone)


def test_dino_gives_the_teacher(tmp_path, weights):
  torch = pytest.importorskip('torch')
  _, tensors = weights
  tensors = {k: torch.tensor(v) for k, v in tensors.items()}
  student = {f'module.backbone.{k}': v + 1 for k, v in tensors.items()}
  teacher = {f'backbone.{k}': v for k, v in tensors.items()}
  torch.save({'student': student, 'teacher': teacher, 'epoch': 3}, tmp_path / 'x.pth')
  found = backbone_of(read_state_dict(tmp_path / 'x.pth'), tensors)
  assert found.keys() == tensors.keys()
  np.testing.assert_array_equal(found['conv1.weight'], tensors['conv1.weight'])


def test_what_of_another_shape_or_name_is_missing(weights):
  backbone, tensors = weights
  other = {**tensors, 'conv1.weight': np.ones((4, 1, 7, 7), np.float32)}
  del other['bn1.weight']
  read, names, missing = from_torch(other, backbone)
  assert sorted(missing) == [
    'bn1.weight is missing',
    'conv1.weight has the shape (7, 7, 1, 4), not (7, 7, 3, 4)',
  ]
  assert len(names) == len(tensors) - 2
  np.testing.assert_array_equal(read.params['conv1']['kernel'], backbone.params['conv1']['kernel'])
  assert backbone_of({'a.b': np.ones(3)}, tensors) == {}


@pytest.mark.parametrize(
  ('name', 'change', 'words'),
  [
    ('conv1.weight', lambda x: x * np.float32('nan'), 'conv1.weight is not finite'),
    ('bn1.bias', lambda x: x + np.float32('inf'), 'bn1.bias is not finite'),
    ('conv1.weight', lambda x: x.astype(np.int8), 'conv1.weight has whole numbers of int8'),
    ('bn1.running_var', lambda x: -1 - x, 'bn1.running_var is negative'),
  ],
)
def test_numbers_that_are_no_weights(tmp_path, weights, name, change, words):
  backbone, tensors = weights
  file = tmp_path / 'x.safetensors'
  save_file({**tensors, name: np.ascontiguousarray(change(tensors[name]))}, file)
  params, stats = {'backbone': backbone.params}, {'backbone': backbone.batch_stats}
  with pytest.raises(UserError, match=rf'x.safetensors is damaged or .*\({words}\): save it anew'):
    load_backbone(file, params, stats)


class Code:
  def __reduce__(self):
    return print, ('code ran',)


def test_refused(tmp_path, capfd):
  (tmp_path / 'x.safetensors').write_bytes(b'no')
  with pytest.raises(UserError, match=r'no file .*y\.safetensors'):
    read_state_dict(tmp_path / 'y.safetensors')
  with pytest.raises(UserError, match='not a safetensors file'):
    read_state_dict(tmp_path / 'x.safetensors')
  torch = pytest.importorskip('torch')
  torch.save(Code(), tmp_path / 'code.pt')
  with pytest.raises(UserError, match='weights alone'):
    read_state_dict(tmp_path / 'code.pt')
  assert 'code ran' not in capfd.readouterr().out
  torch.save([1, 2], tmp_path / 'list.pt')
  with pytest.raises(UserError, match='no state dict'):
    read_state_dict(tmp_path / 'list.pt')
  assert is_weight_file('gs://b/x.pth') and not is_weight_file('/runs/a')


def test_a_file_without_permission(tmp_path, monkeypatch):
  (tmp_path / 'y.safetensors').write_bytes(b'')
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  with pytest.raises(UserError, match=r'y.safetensors cannot be read \(Permission denied\): make'):
    read_state_dict(tmp_path / 'y.safetensors')


def test_a_store_whose_client_fails(monkeypatch):
  def fail(path):
    raise RuntimeError('Name or service not known')  # its client raises its own types

  monkeypatch.setattr('clr_jax.core.storage.refuse_unreachable', lambda path: None)
  monkeypatch.setattr('clr_jax.rundir.state_dicts.is_file', fail)
  with pytest.raises(
    UserError, match=r'gs://x cannot be used \(Name or service not known\): check'
  ):
    read_state_dict('gs://x/y.pth')
