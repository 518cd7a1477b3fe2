"""A table of `clr-jax reproduce` whose two rows take seconds."""

import pathlib

TEXT = f"""
[tiny]
title = 'Two rows'
config = '{pathlib.Path(__file__).parent / 'tiny.py'}'
argument = '{{row}}'
data = ['digits']
protocol = 'knn'
baseline = 'simclr'
flags = ['num_epochs=0.6', 'eval_every=0', 'checkpoint_every=0']
small = []
rows.simclr = {{ published = [80.0] }}
rows.sogclr = {{ published = [85.0] }}
"""


def write(folder: pathlib.Path) -> pathlib.Path:
  """Makes the folder, which stands for that of the packaged configs."""
  folder.mkdir(exist_ok=True)
  (folder / 'tables.toml').write_text(TEXT)
  return folder
