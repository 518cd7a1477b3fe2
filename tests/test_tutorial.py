"""The notebook of `launch/`: every cell runs, one after the other, in a new process."""

import ast
import json
import os
import pathlib
import subprocess
import sys

import pytest

PATH = pathlib.Path(__file__).parent.parent / 'launch' / 'tutorial.ipynb'
# Python has no reader of notebooks; nothing in this one needs another kernel.
RUN = """
import json, sys
cells = json.load(open(sys.argv[1]))['cells']
names = {'__name__': '__main__'}
for cell in cells:
  if cell['cell_type'] == 'code':
    exec(''.join(cell['source']), names)
print(names['bars'])
"""


def code_cells():
  cells = json.loads(PATH.read_text())['cells']
  return [cell for cell in cells if cell['cell_type'] == 'code']


def test_the_notebook_was_run_from_the_first_cell_to_the_last():
  cells = code_cells()
  assert [cell['execution_count'] for cell in cells] == list(range(1, len(cells) + 1))
  for cell in cells:
    ast.parse(''.join(cell['source']))
    assert all(output['output_type'] != 'error' for output in cell['outputs'])
  assert '/' not in ''.join(''.join(o.get('text', ())) for c in cells for o in c['outputs'])


@pytest.mark.weekly
def test_every_cell_runs(tmp_path):
  quick = ('XLA_FLAGS', 'JAX_DISABLE_MOST_OPTIMIZATIONS')  # to compile, and slow to run
  environment = {k: v for k, v in os.environ.items() if k not in quick}
  environment |= {'MPLBACKEND': 'Agg', 'JAX_PLATFORMS': 'cpu', 'TMPDIR': str(tmp_path)}
  command = [sys.executable, '-c', RUN, str(PATH)]
  printed = subprocess.check_output(command, env=environment, text=True, timeout=1500)
  bars = ast.literal_eval(printed.splitlines()[-1].replace('np.float64(', '').replace(')', ''))
  for few, all_labels in (bars['SimCLR'], bars['align_uniform']):
    assert few > bars['untrained'][0] + 10 and all_labels > bars['untrained'][1] + 5
