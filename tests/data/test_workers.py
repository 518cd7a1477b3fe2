"""The processes that read images for Grain import no more than reading takes."""

import json
import subprocess
import sys

import pytest

HEAVY = {'flax', 'jax', 'optax', 'orbax', 'tensorflow', 'matplotlib'}

# Started as `clr-jax` is: a worker process imports the file that was started, under another name.
PROGRAM = """
import json
import sys

import numpy as np

import clr_jax.cli.main
from clr_jax.data import ArraySource, stream


class Watched(ArraySource):
  'Its images carry the names of the modules that the reading process has imported.'

  def load_whole(self, indices):
    import jax

    started = jax._src.xla_bridge.backends_are_initialized()
    report = json.dumps({'modules': sorted(sys.modules), 'backends': started}).encode()
    loaded = super().load_whole(indices)
    loaded.image.reshape(-1)[: len(report)] = np.frombuffer(report, np.uint8)
    return loaded


if __name__ == '__main__':
  source = Watched(np.zeros((2, 512, 512, 1), np.uint8))
  blocks = stream.read_blocks(
    source, [(0, 1)], seed=0, batch_size=2, rows=np.arange(2), labels=False, workers=1
  )
  print(next(blocks)['image'].tobytes().rstrip(b'\\0').decode())
  blocks.close()
"""


def run(*arguments):
  """Output of a program."""
  command = [sys.executable, *map(str, arguments)]
  return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout


def imported_by(*modules):
  """The heavy packages that importing some modules brings in."""
  code = f'import sys, {", ".join(modules)}; print(*{HEAVY} & sys.modules.keys())'
  return run('-c', code).split()


def test_reading_imports_no_jax():
  sources = ('digits', 'folder', 'imagenet100', 'npz', 'tfds')
  assert not imported_by('clr_jax.data.stream', *(f'clr_jax.data.sources.{s}' for s in sources))


@pytest.mark.slow
def test_a_worker_process_of_grain(tmp_path):
  program = tmp_path / 'program.py'
  program.write_text(PROGRAM)
  found = json.loads(run(program))
  modules = found['modules']
  assert 'grain' in modules and '__mp_main__' in modules  # it is a worker
  assert not (HEAVY - {'jax', 'orbax'}) & set(modules)  # these two are imported by Grain itself
  assert not found['backends']
  own = [name for name in modules if name.partition('.')[0] == 'clr_jax']
  assert 'clr_jax.data.stream' in own and 'clr_jax.cli.main' in own
  assert not imported_by(*own)
