"""Attention maps of a run of a vision transformer."""

import numpy as np
import pytest
from PIL import Image

from clr_jax.figures.drawing.draw import draw_figure
from tests.exchange.test_export_vit import run  # noqa: F401  (a fixture)
from tests.figures.run_files import read_csv


@pytest.mark.slow
def test_a_map_per_head(run, tmp_path):  # noqa: F811
  written = draw_figure('attention', [str(run[0])], str(tmp_path / 'x.png'), num_images=3)
  (picture,) = (path for path in written if path.suffix == '.png')
  assert np.asarray(Image.open(picture).convert('L')).std() > 10
  (table,) = (path for path in written if path.suffix == '.csv')
  rows = read_csv(table)
  assert [row['head'] for row in rows] == ['1', '2'] * 3
  for row in rows:  # of four patches, with the class token's own weight a distribution
    largest, token = float(row['largest']), float(row['token'])
    assert largest + token < 1 < 4 * largest + token + 1e-6
    assert 1 <= float(row['effective_patches']) <= 4 + 1e-6
