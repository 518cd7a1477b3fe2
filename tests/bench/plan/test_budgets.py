"""Budgets of the training step as XLA's compilers for GPUs and TPUs make it, where they are here.

`clr_jax/bench/README.md` says what was there before and where the rest goes.
"""

import numpy as np
import pytest

from clr_jax.bench.plan import parts
from tests.bench.plan import command


def plan(tmp_path, target, package, batch):
  """ResNet-18 at 32x32, bfloat16, SogCLR with LARS, on random images."""
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, [1024, 32, 32, 3], np.uint8)
  np.savez(tmp_path / 'images.npz', image=image, label=np.arange(1024) % 10)
  options = {
    'data.name': f'npz:{tmp_path}/images.npz',
    'data.test_split': '',
    'model.name': 'resnet18',
    'precision': 'bfloat16',
    'batch_size': batch,
    'deterministic': False,
  }
  flags = [f'--config.{key}={value}' for key, value in options.items()]
  return command.plan(target, package, '--config=sogclr:cifar10', *flags)


@pytest.mark.slow
def test_gpu(tmp_path):
  """869 kernels, 28 copies and 4.97 GB before."""
  found = plan(tmp_path, 'h200:1', 'jax_plugins.xla_cuda13', 64)
  assert found['total']['kernels'] <= 380
  assert found['parts'][parts.COPIES]['kernels'] <= 5
  assert found['parts']['optimizer']['kernels'] <= 30
  assert sum(found['parts'][part]['kernels'] for part in ('augmentation', 'crops')) <= 34
  assert found['parts']['normalization']['kernels'] <= 134
  assert found['total']['bytes'] <= 3.6e9


@pytest.mark.weekly
def test_tpu(tmp_path):
  """19.8 million estimated cycles before, of which 7.7 copied the data set."""
  found = plan(tmp_path, 'v5e:2x2', 'libtpu', 256)
  assert found['total']['cycles'] <= 7.507e6  # two thirds of 11.26 million
  assert found['parts']['normalization']['cycles'] <= 0.58e6
  assert found['parts']['optimizer']['cycles'] <= 0.75e6
  assert sum(found['parts'][part]['cycles'] for part in ('augmentation', 'crops')) <= 0.38e6
  assert found['parts'][parts.COPIES]['cycles'] <= 5e4
  assert 'all-to-all' not in found['collectives']
