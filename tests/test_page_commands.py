"""Shell commands of the Markdown pages, run as they stand but for sizes, in a folder of their own.

The tests run every command that LEFT_OUT does not match; LEFT_OUT has the reasons of the others.
"""

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from clr_jax import data, models
from clr_jax.models.torch_names import Backbone, to_torch
from tests.test_pages import PAGES, ROOT, commands

SMALL = ['num_epochs=0.5', 'schedule.warmup_epochs=0', 'model.width=4', 'eval_every=0']
SMALL = [f'--config.{key}' for key in SMALL]
# Flags that make commands small, by a word of theirs; those of papers are checked and listed only.
SIZES = {
  'train': SMALL,
  'sweep': ['--list'],
  'few-label': ['--params.draws=2'],
  'finetune': ['--params.epochs=1', '--params.draw=0'],
  'robustness': ['--params.num_images=8', '--params.severities=1', '--params.steps=2'],
  'operators': ['--params.data=digits'],
  '--rows': ['--list'],
}
# Patterns of commands that do not run here, with the reason, and the test that replaces them.
LEFT_OUT = {
  r'pip |pre-commit ': 'installs packages',
  r'ruff |pyright|pytest': 'checks the code, as .ci/run does',
  r'\S+ .*--config=configs/fashion_mnist.py': 'needs Fashion-MNIST',
  r'\S+ train --config=configs/sogclr.py:cifar10': 'needs CIFAR-10',
  r'.*--params.target=cifar10': 'needs CIFAR-10: tests/evaluation/protocols/test_transfer.py',
  r'clr-jax inspect trajectory': 'needs runs on CIFAR-10: tests/figures/test_trajectory.py',
  r'.*--summary': 'needs the runs of a sweep: tests/cli/sweep/test_studies.py',
  r'.*--add=': "changes the library's ledger: tests/studies/test_ledger.py",
  r'.*--plan=h100': "needs the GPU's compiler: tests/cli/test_reproduce.py plans for CPUs",
  r'launch/|sbatch |clr-jax train \.\.\.': 'starts processes: tests/processes/test_launch.py',
  r'python launch/compare': 'trains all methods: tests/processes/test_launch.py',
  r'python -c|python tools/': 'needs PyTorch and Detectron2, whose script it is',
}


def reason(words):
  """Why a command does not run here; None if it does."""
  found = [why for pattern, why in LEFT_OUT.items() if re.match(pattern, ' '.join(words))]
  return found[0] if found else None


def in_folder(folder, words):
  """The words of a command with the places of this test."""
  run = 'mine' if '--imports=my_methods.py' in words else 'own'
  run = 'weights' if any(word.startswith('--weights=') for word in words) else run
  run = 'sweeps' if words[0] in ('sweep', 'reproduce') else run
  places = {'PATH': 'photos', 'DIR': run}
  pattern = re.compile(r'PATH$|(?<==)DIR(?=/|$)|(?<=[=:])/(?:tmp|data|shared|d)/')
  return [pattern.sub(lambda place: f'{folder}/{places.get(place[0], "")}', w) for w in words]


def small(words):
  """The words of a command with the flags that make it small."""
  sizes = [f for word in words for f in SIZES.get(word.partition('=')[0], ()) if f not in words]
  replaced = {flag.partition('=')[0] for flag in sizes}
  return [word for word in words if word.partition('=')[0] not in replaced] + sizes


def call(folder, *arguments):
  quick = ('XLA_FLAGS', 'JAX_DISABLE_MOST_OPTIMIZATIONS')  # to compile, and slow to run
  environment = {k: v for k, v in os.environ.items() if k not in quick}
  environment |= {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, '-m', 'clr_jax', *arguments]
  done = subprocess.run(
    command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
  )
  assert done.returncode == 0, f'{arguments}: {done.stderr[-2000:]}'
  return done.stdout


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with photos, other files, and the runs that the commands name."""
  folder = tmp_path_factory.mktemp('pages')
  write_files(folder)
  for name in ('fm', 'a', 'b'):
    call(folder, 'train', '--config=quickstart', f'--workdir={folder}/{name}', *SMALL)
  unlabeled = ['--config=images:simclr', '--config.data.name=npz:unlabeled.npz']
  call(folder, 'train', *unlabeled, f'--workdir={folder}/u', *SMALL)
  return folder


def write_files(folder):
  rng = np.random.default_rng(0)
  for i, image in enumerate(rng.integers(0, 256, (80, 16, 16, 3), np.uint8)):
    place = folder / 'photos' / 'ab'[i % 2]
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(place / f'{i}.png')
  (folder / 'configs').mkdir()
  for name in ('tests/my_methods.py', 'configs/studies.md'):
    text = (ROOT / name).read_text()
    (folder / name.removeprefix('tests/')).write_text(text)
  for split in ('train', 'test'):
    images, labels = data.load_source('digits', split=split).arrays()
    np.savez(folder / f'labeled_{split}.npz', image=images, label=labels)
  np.savez(folder / 'unlabeled.npz', image=data.load_source('digits').arrays()[0])
  save_file(random_weights(rng), folder / 'resnet50.safetensors')


def random_weights(rng):
  """A state dict of a ResNet-50 by the shapes of ours, which need no compilation."""
  network = models.make('resnet50', width=64, stem='imagenet', mean=(0.5,), std=(0.5,))
  make = functools.partial(network.init, train=False)
  shapes = jax.eval_shape(make, jax.random.key(0), jnp.zeros([1, 32, 32, 3]))
  values = jax.tree.map(lambda x: rng.normal(0, 0.02, x.shape).astype(np.float32), shapes)
  tensors = to_torch(Backbone(values['params'], values['batch_stats']))
  return {k: np.abs(v) + 1 if k.endswith('running_var') else v for k, v in tensors.items()}


def test_every_command_runs_here_or_says_why_not():
  known = [words for page in PAGES for words in commands(page)]
  for words in known:
    assert words[0] == 'clr-jax' or reason(words), words
  for pattern, why in LEFT_OUT.items():
    assert any(re.match(pattern, ' '.join(words)) for words in known), pattern
    for test in re.findall(r'tests/\S+\.py', why):
      assert (ROOT / test).exists(), test


@pytest.mark.weekly
def test_commands_run(folder):
  done = []
  for page in PAGES:
    for words in commands(page):
      if words not in done and not reason(words):
        call(folder, *small(in_folder(folder, words[1:])))
      done.append(words)
  page = folder / 'configs' / 'studies.md'
  assert page.read_text() == (ROOT / 'configs' / 'studies.md').read_text()
