"""The measurement of the reading of images alone."""

import numpy as np
import pytest
from PIL import Image

import clr_jax
from clr_jax.bench import input as input_lib
from clr_jax.core.errors import UserError


def test_measure_and_its_text(tmp_path):
  for i, size in enumerate([(9, 12), (20, 30), (14, 9), (12, 12)]):
    Image.fromarray(np.full((*size, 3), i, np.uint8)).save(tmp_path / f'{i}.png')
  given = {'data.name': f'folder:{tmp_path}', 'data.test_split': '', 'batch_size': 4}
  config = clr_jax.load_config('sogclr:cifar10', given)
  found = input_lib.measure(config, repeats=1, steps=2)
  assert found['image_bytes'] == 96 * 96 * 3 and found['images'] == 4
  assert found['core_ms'].keys() == {'read', 'decode'} and found['core_ms']['read'] > 0
  assert found['images_per_second'] > 0
  assert 'sent           27,648 bytes an image' in input_lib.format_report(found)
  config.batch_size = 8
  with pytest.raises(UserError, match=r'batch_size=8 is larger than the data set \(4 examples\)'):
    input_lib.measure(config, repeats=1, steps=1)
