"""Another architecture is a file of its own: nothing else names the backbones."""

import pytest

from clr_jax import models
from clr_jax.models import tables

FILE = """
def convnext(*, width: int = 96):
  return width

BACKBONES = {'convnext_tiny': convnext}
TORCH_NAMES = {r'stages_(\\d)_(\\d)': r'stages.\\1.blocks.\\2'}
"""


@pytest.fixture
def another_file(tmp_path, monkeypatch):
  (tmp_path / 'convnext.py').write_text(FILE)
  monkeypatch.setattr(models, '__path__', [*models.__path__, str(tmp_path)])
  tables.rows.cache_clear()
  yield
  tables.rows.cache_clear()


def test_a_file_adds_backbones_and_names(another_file):
  assert list(tables.rows('BACKBONES')) == ['convnext_tiny', *models.names()]
  assert tables.rows('TORCH_NAMES')[r'stages_(\d)_(\d)'] == r'stages.\1.blocks.\2'
