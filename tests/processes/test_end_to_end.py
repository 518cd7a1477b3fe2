"""The README's first command, and real images through TFDS, as a user would run them."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
DATA_DIR = pathlib.Path(os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')).expanduser()


def clr_jax(*arguments, cwd):
  """Runs the command line from another folder, with XLA's optimizations (conftest drops them)."""
  drop = ('JAX_DISABLE_MOST_OPTIMIZATIONS', 'XLA_FLAGS')
  env = {k: v for k, v in os.environ.items() if k not in drop}
  command = [sys.executable, '-m', 'clr_jax', *arguments]
  done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


def linear(records, features, fraction):
  values = [
    r['value']
    for r in records
    if r['protocol'] == 'linear'
    and r['features'] == features
    and r['params']['label_fraction'] == fraction
  ]
  return np.mean(values)


def results(workdir, cwd):
  lines = clr_jax('results', f'--workdir={workdir}', '--json', cwd=cwd).splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_quickstart_beats_untrained_and_pixels(tmp_path):
  table = clr_jax('train', '--config=quickstart', '--workdir=run', cwd=tmp_path)
  assert 'linear' in table and 'untrained' in table and 'pixels' in table
  records = results('run', tmp_path)
  for fraction in (0.01, 0.1):
    trained = linear(records, 'trained', fraction)
    assert trained > linear(records, 'untrained', fraction) + 0.05
    assert trained > linear(records, 'pixels', fraction) + 0.02
  assert linear(records, 'trained', 1.0) > 0.97
  fields = (
    'metric value protocol params features step checkpoint config_hash code_version libraries '
    'data_checksum seed device seconds'
  )
  for record in records:
    assert set(fields.split()) <= set(record)


@pytest.mark.slow
@pytest.mark.skipif(
  not (DATA_DIR / 'fashion_mnist').exists(), reason=f'fashion_mnist is not prepared in {DATA_DIR}'
)
def test_fashion_mnist_through_tfds(tmp_path):
  """A few steps on real images; both modes give the same losses, bit for bit."""
  arguments = (
    '--config=fashion_mnist',
    '--config.data.train_split=train[:4096]',
    '--config.data.test_split=test[:1000]',
    f'--config.data.data_dir={DATA_DIR}',
    '--config.num_epochs=0.5',
    '--config.schedule.warmup_epochs=0',
    '--config.log_every=1',
    "--config.eval.features=('trained',)",
    '--config.eval.protocols.linear.label_fraction=(0.1,)',
  )
  losses = {}
  for mode in ('resident', 'streamed'):
    clr_jax('train', *arguments, f'--workdir={mode}', f'--config.data.mode={mode}', cwd=tmp_path)
    rows = [
      json.loads(line)
      for path in sorted((tmp_path / mode / 'metrics').glob('*.jsonl'))
      for line in path.read_text().splitlines()
    ]
    losses[mode] = [row['loss'] for row in rows if 'loss' in row]
    assert len(losses[mode]) == 8
    assert linear(results(mode, tmp_path), 'trained', 0.1) > 0.5
  assert losses['streamed'] == losses['resident']
