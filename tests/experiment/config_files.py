"""Helpers for tests of the config files: arguments, docstrings, and data without images."""

import functools
import re

import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.data import Source
from clr_jax.data.slices import base_split, resolve_split
from clr_jax.experiment import build
from clr_jax.experiment.config_files import load, packaged, resolve

SHAPES = {  # image shape, training images, classes
  'cifar10': ((32, 32, 3), 50_000, 10),
  'cifar100': ((32, 32, 3), 50_000, 100),
  'fashion_mnist': ((28, 28, 1), 60_000, 10),
  'digits': ((16, 16, 1), 1_437, 10),
  'stl10': ((64, 64, 3), 100_000, 10),
  'folder:tiny-imagenet-200': ((64, 64, 3), 100_000, 200),
  'imagenet100': ((256, 256, 3), 126_689, 100),
  'imagenet2012': ((256, 256, 3), 1_281_167, 1000),
}
TRAINING = (
  'train',
  'unlabelled',
  'train+unlabelled',
)  # splits of that many images; the others have 1000
FILES = packaged()
PAPERS = (
  'feature_transformation',
  'margins',
  'sogclr',
  'tcl_selfsup',
  'tcl_supervised',
)


class Fake(Source):
  """Shapes without images."""

  def __init__(self, name, split):
    shape, size, classes = SHAPES[name]
    base = base_split(split)
    sizes = {base: size if base in TRAINING else 1000}
    rows = np.arange(*resolve_split(split, sizes, source=name)[1:])
    super().__init__(
      name=name,
      split=split,
      rows=rows,
      image_shape=shape,
      num_classes=None if 'unlabelled' in split else classes,
      class_names=None,
    )

  def _read(self, rows):
    raise AssertionError('nothing here needs an image')


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
  """Autouse where it is imported."""
  monkeypatch.setattr(build.data, 'load_source', lambda name, *, split, **_: Fake(name, split))


@functools.cache
def arguments(file: str) -> list[str]:
  """Arguments listed in the message for an unknown one; [] for a config without argument."""
  with pytest.raises(UserError) as error:
    load(f'{file}:no-such-argument')
  message = str(error.value)
  if 'takes no argument' in message:
    return []
  return message.partition('choose one of ')[2].split(', ')


def docstring(file: str) -> str:
  return resolve(file)[0].read_text().split('"""')[1]


def commanded(file: str) -> list[str]:
  return re.findall(r'--config=([^\s`]+)', docstring(file))


def tiny(config):
  """The same run with a network that is traced quickly; all ResNets have the same options."""
  if config.model.name.startswith('vit'):
    config.model.update({'width': 12, 'heads': 3, 'depth': 2})
  else:
    config.model.name, config.model.width = 'resnet_tiny', 8
  return config
