"""Shell commands of the README, run as they stand but for sizes, in a folder of their own."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.test_pages import ROOT, commands

SMALL = ('num_epochs=0.5', 'schedule.warmup_epochs=0', 'model.width=4', 'eval_every=0')
# Flags by command, and by protocol, that make it small.
SIZES = {
  'train': [f'--config.{key}' for key in SMALL],
  'robustness': ['--params.num_images=8', '--params.severities=1', '--params.steps=2'],
}
# Words of commands that cannot run here, with the reason.
LEFT_OUT = {
  'pip': 'installs packages',
  'pytest': 'runs the tests',
  '--config=configs/fashion_mnist.py': 'needs Fashion-MNIST',
  '--config=configs/sogclr.py:cifar10': 'needs CIFAR-10',
}
PAGES = ['README.md']


def runs(page):
  """The words of each command of a page that can run here."""
  for words in commands(ROOT / page):
    if not LEFT_OUT.keys() & set(words):
      yield words


def in_folder(folder, words):
  """The words of a command with the places of this test."""
  run = 'mine' if '--imports=my_methods.py' in words else 'own'
  places = {'PATH': 'photos', '/tmp/': '', 'DIR': run}
  pattern = re.compile('PATH$|^DIR$|(?<==)DIR$|/tmp/')
  return [pattern.sub(lambda place: f'{folder}/{places[place[0]]}', word) for word in words]


def call(folder, *arguments):
  quick = ('XLA_FLAGS', 'JAX_DISABLE_MOST_OPTIMIZATIONS')  # to compile, and slow to run
  environment = {k: v for k, v in os.environ.items() if k not in quick}
  environment |= {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, '-m', 'clr_jax', *arguments]
  done = subprocess.run(
    command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
  )
  assert done.returncode == 0, f'{arguments}: {done.stderr[-2000:]}'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with photos, and the runs that the commands name."""
  folder, rng = tmp_path_factory.mktemp('pages'), np.random.default_rng(0)
  images = rng.integers(0, 256, (80, 16, 16, 3), np.uint8)
  for i, image in enumerate(images):
    place = folder / 'photos' / 'ab'[i % 2]
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(place / f'{i}.png')
  method = (pathlib.Path(__file__).parent / 'my_methods.py').read_text()
  (folder / 'my_methods.py').write_text(method)
  for name in ('fm', 'a', 'b'):
    call(folder, 'train', '--config=quickstart', f'--workdir={folder}/{name}', *SIZES['train'])
  return folder


def test_reasons_belong_to_commands():
  known = {word for page in PAGES for words in commands(ROOT / page) for word in words}
  assert set(LEFT_OUT) <= known


@pytest.mark.weekly
@pytest.mark.parametrize('page', PAGES)
def test_commands_run(page, folder):
  for program, *words in runs(page):
    assert program == 'clr-jax', words
    words = in_folder(folder, words)
    sizes = [flag for word in words[:2] for flag in SIZES.get(word, ())]
    if '--config=quickstart:byol' in words:  # sets the length itself
      words = [word for word in words if not word.startswith('--config.num_epochs')]
    call(folder, *words, *sizes)
