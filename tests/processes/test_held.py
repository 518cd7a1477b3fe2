"""Real processes in one workdir: one run holds it, and a refused one leaves nothing there."""

import json
import os
import signal
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests.processes.launching import NO_TEST, ROOT, TINY, ended, start_training, until_saved

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('held')]
STREAMED = '--config.data.mode=streamed', '--config.data.workers=1'


@pytest.fixture
def run(zygote):
  """`clr-jax` in a real process that must end with this code: (stdout, stderr)."""

  def run(*arguments, code=0, fault='none', wait=True):
    process = subprocess.Popen(
      zygote.command('tests.processes.child', fault, *arguments),
      cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    if not wait:
      return process
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (process.returncode, out, err)
    assert 'Traceback' not in err, err
    return out, err

  return run


def train(directory, *options):
  return 'train', f'--config={TINY}:simclr', f'--workdir={directory}', NO_TEST, *options


def holder(directory):
  return json.loads((directory / '.lock').read_text())


def test_one_run_holds_its_workdir_until_it_is_killed(run, tmp_path):
  """Its reader processes, which may outlive it, do not hold it."""
  first = run(*train(tmp_path, *STREAMED), fault='hang', wait=False)
  while not (tmp_path / 'data.json').exists():
    assert first.poll() is None
  before = {p: p.read_bytes() for p in tmp_path.rglob('*.json')}
  _, err = run(*train(tmp_path, '--config.seed=5'), code=2)
  who = holder(tmp_path)
  assert f'{tmp_path} is in use by another run (process {who["pid"]} on {who["host"]}, since' in err
  assert {p: p.read_bytes() for p in tmp_path.rglob('*.json')} == before
  os.kill(who['pid'], signal.SIGKILL)
  first.communicate()
  run(*train(tmp_path, '--config.stop_at_epoch=0.1'))
  assert not (tmp_path / '.lock').exists()


def test_evaluation_while_it_is_trained(run, tmp_path):
  first = run(*train(tmp_path), fault='hang_later', wait=False)
  until_saved(first, tmp_path)
  both = [
    run('evaluate', 'knn', f'--workdir={tmp_path}', '--config.data.test_split=test', k, wait=False)
    for k in ('--params.k=3', '--params.k=4')
  ]
  for process in both:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
  assert len(list((tmp_path / 'results').glob('*.json'))) == 2
  os.kill(holder(tmp_path)['pid'], signal.SIGKILL)
  first.communicate()


def test_the_processes_of_one_run_hold_it_together(zygote, tmp_path):
  program = zygote.script(tmp_path, 'clr_jax')
  waiting = zygote.script(tmp_path, 'tests.processes.child', 'hang_later')
  first = start_training(waiting, 2, tmp_path / 'run', NO_TEST)
  until_saved(first, tmp_path / 'run')
  code, output = ended(start_training(program, 2, tmp_path / 'run', NO_TEST))
  assert code == 2 and output.count('is in use by another run (process ') == 2, output
  os.kill(holder(tmp_path / 'run')['pid'], signal.SIGKILL)
  first.communicate()


# ---------------------------------------------------------------- nothing is left
@pytest.fixture
def images(tmp_path):
  """Two classes of 40 images, one of them damaged."""
  rng = np.random.default_rng(0)
  for split, number in (('train', 40), ('test', 8)):
    for name in ('a', 'b'):
      folder = tmp_path / 'images' / split / name
      folder.mkdir(parents=True)
      for i in range(number):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f'{i:02d}.png')
  damaged = tmp_path / 'images/train/b/39.png'
  damaged.write_bytes(damaged.read_bytes()[:60])
  return tmp_path / 'images'


@pytest.mark.parametrize('mode', ['resident', 'streamed'])
def test_a_refused_image_leaves_nothing(run, images, tmp_path, mode):
  run_dir = tmp_path / 'new' / 'run'
  options = f'--config.data.name=folder:{images}', f'--config.data.mode={mode}'
  _, err = run(*train(run_dir, *options), code=2)
  assert '39.png' in err
  assert not (tmp_path / 'new').exists()
