import jax
import jax.numpy as jnp
import pytest

from clr_jax import models
from clr_jax.core import options as config
from clr_jax.core.errors import UserError

TORCHVISION = {
  'resnet18': 11_689_512,
  'resnet34': 21_797_672,
  'resnet50': 25_557_032,
  'resnet101': 44_549_160,
}


@pytest.mark.parametrize('name', models.names())
def test_features_and_number_of_parameters(name):
  model = models.make(name)

  def make():
    return model.init_with_output(jax.random.key(0), jnp.zeros((2, 32, 32, 3)), train=False)

  h, variables = jax.eval_shape(make)
  assert h.shape == (2, model.num_features)
  count = sum(v.size for v in jax.tree.leaves(variables['params']))
  if name.startswith('vit_'):
    return  # test_vit.py compares all shapes with timm's
  if name in TORCHVISION:
    assert count + 1000 * (model.num_features + 1) == TORCHVISION[name]
  else:
    assert model.num_features == 128  # three stages, width 32


def test_config_records_every_option():
  recorded = config.component(models.factory('resnet18'), 'resnet18', stem='cifar', mean=(0.5,))
  assert recorded.width == 64
  assert not recorded.zero_init_residual
  recorded.dtype = 'bfloat16'
  model = config.build(models.factory(recorded.name), recorded)
  assert model == models.make('resnet18', stem='cifar', mean=(0.5,), dtype='bfloat16')


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('resnet19', {}, 'choose one of resnet_tiny, resnet18'),
    ('resnet18', {'widht': 3}, 'takes width, stem'),
    ('resnet18', {'stem': 'mnist'}, "one of 'imagenet', 'cifar', 'cifar_pad2'"),
    ('resnet18', {'stem_init': 'zeros'}, "one of 'kaiming_normal', 'torch_default'"),
    ('resnet18', {'downsample': 'max'}, "one of 'conv', 'avgpool'"),
    ('resnet18', {'width': 0}, 'width=0 .* of at least 1'),
    ('resnet18', {'mean': (127.0,)}, 'mean'),
    ('resnet18', {'dtype': 'bf16'}, "unknown dtype 'bf16'"),
  ],
)
def test_bad_choices(name, options, message):
  with pytest.raises(UserError, match=message):
    models.make(name, **options)
