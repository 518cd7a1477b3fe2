"""ResNets against torchvision's, by arrays that tests/expected/make.py made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.models.resnet import architecture
from tests import expected
from tests.models.test_resnet import to_torch_name


def in_torch(path, value):
  """The weights that PyTorch's module of this name has, in our layout."""
  shape = (
    tuple(np.transpose(np.empty(value.shape), (3, 2, 0, 1)).shape)
    if value.ndim == 4
    else value.shape
  )
  found = expected.weights(to_torch_name(path), shape)
  return found.transpose(2, 3, 1, 0) if value.ndim == 4 else found


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'blocks', 'bottleneck'),
  [
    ('basic', (1, 1, 1, 1), False),
    pytest.param('bottleneck', (1, 2, 1, 1), True, marks=pytest.mark.slow),
  ],
)
def test_equals_torchvision(x64, name, blocks, bottleneck):
  arrays = expected.load('resnet')
  model = architecture(blocks, bottleneck=bottleneck)(
    width=64, stem='imagenet', mean=(0.0,), std=(1.0,)
  )
  images = jnp.asarray(expected.images((2, 40, 36, 3)) / 255.0)
  shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
  variables = jax.tree_util.tree_map_with_path(in_torch, shapes)

  @jax.jit
  def run(images):
    h = model.apply(variables, images, train=False)
    return (h**2).sum(), h

  (_, h), gradient = jax.value_and_grad(run, has_aux=True)(images)
  for actual, wanted in ((h, arrays[f'{name}_h']), (gradient, arrays[f'{name}_gradient'])):
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())
