"""The measurement of reading alone, beside PyTorch's DataLoader."""

import numpy as np
import pytest
from PIL import Image

import clr_jax
from clr_jax import data
from clr_jax.bench import input as input_lib
from clr_jax.core.errors import UserError
from clr_jax.data.whole import Whole


@pytest.fixture
def folder(tmp_path):
  for i, size in enumerate([(9, 12), (20, 30), (14, 9), (12, 12)]):
    Image.fromarray(np.full((*size, 3), 60 * i, np.uint8)).save(tmp_path / f'{i}.png')
  return f'folder:{tmp_path}'


def test_measure_and_its_text(folder, monkeypatch):
  monkeypatch.setattr(input_lib.importlib.util, 'find_spec', lambda name: None)  # no PyTorch
  given = {'data.name': folder, 'data.test_split': '', 'batch_size': 4}
  config = clr_jax.load_config('sogclr:cifar10', given)
  found = input_lib.measure(config, repeats=1, steps=2)
  assert found['image_bytes'] == 96 * 96 * 3 and found['images'] == 4
  assert found['core_ms'].keys() == {'read', 'decode'} and found['core_ms']['read'] > 0
  assert found['images_per_second']['min'] > 0 and found['peer'] is None
  text = input_lib.format_report(found)
  assert 'sent           27,648 bytes an image' in text and 'PyTorch' not in text
  rate = {'median': 123.4, 'min': 100.0, 'max': 2000.0}
  peer = {'views': 2, 'size': 32, 'images_per_second': rate}
  text = input_lib.format_report({**found, 'peer': peer})
  assert 'PyTorch        123 (100 to 2,000) images/s, DataLoader, in one thread, 2 crops' in text
  config.batch_size = 8
  with pytest.raises(UserError, match=r'batch_size=8 is larger than the data set \(4 examples\)'):
    input_lib.measure(config, repeats=1, steps=1)
  with pytest.raises(UserError, match='repeats=0 and steps=1 must be at least 1'):
    input_lib.measure(config, repeats=0, steps=1)


@pytest.mark.slow
def test_pytorch_reads_the_same_images(folder):
  pytest.importorskip('torch')
  from clr_jax.bench.torch_reference import reading  # it imports PyTorch

  source = data.load_source(folder, whole=Whole(canvas=32, shorter=9, size=8))
  crops = reading.Crops(3, 8, (0.2, 1.0), (0.75, 1.33), 'bicubic')
  views = reading.CroppedImages(source, crops)
  assert [np.unique(views[i]).tolist() for i in range(4)] == [[0], [60], [120], [180]]
  assert views[0].shape == (3, 8, 8, 3)
  given = {'data.name': folder, 'data.test_split': '', 'batch_size': 4}
  found = input_lib.measure(clr_jax.load_config('sogclr:cifar10', given), repeats=1, steps=1)
  assert found['peer']['views'] == 2 and found['peer']['images_per_second']['min'] > 0
