"""Runs on small data sets in the forms of the large ones: as TFDS prepares them, as distributed.

Streamed, with reader processes, by the same keys of `config.data` as the published experiments.
"""

import signal

import numpy as np
import pytest
from PIL import Image

from clr_jax.core.errors import UserError
from clr_jax.data import batch_indices, load_source
from clr_jax.rundir import results as results_lib
from clr_jax.rundir import workdir
from clr_jax.training import loop as train
from tests import tiny
from tests.data.prepared import damage, imagenet_names, jpegs, prepare, toy
from tests.processes.launching import (
  TINY,
  assert_same,
  assert_same_to_the_bit,
  ended,
  launch,
  rows_of,
  start_training,
)

pytest.importorskip('array_record')
pytest.importorskip('tensorflow_datasets')

pytestmark = pytest.mark.slow
INSIDE = ('n01558993', 'n03062245', 'n13040303')  # of ImageNet-100


def run(tmp_path, dataset, **data):
  """(protocol, metric) -> value, and the data of a run of one epoch with its evaluation."""
  config = tiny.get_config('simclr')
  tiny.common.data(config, dataset)
  config.data.update({'image_size': 8, 'mode': 'streamed', 'data_dir': str(tmp_path), **data})
  config.batch_size = 16
  config.progress = False
  config.eval.protocols = {'knn': {'k': 3}, 'linear': {}}
  if dataset == 'stl10':
    config.data.train_split = 'train+unlabelled'
    config.eval.update({'train_split': 'train', 'test_split': 'test'})
  train.train(config, str(tmp_path / 'run'))
  records = results_lib.read_results(workdir.Workdir(tmp_path / 'run'))
  assert {r['protocol'] for r in records} == {'knn', 'linear'}
  assert {r['step'] for r in records} == {2}
  return {r['protocol']: r['value'] for r in records}, records[0]['data']


@pytest.mark.weekly
def test_imagenet100_among_other_classes(tmp_path):
  splits = {
    'train': jpegs(('n01440764', *INSIDE), 12),
    'validation': jpegs(('n01440764', *INSIDE), 4, seed=1),
  }
  names = imagenet_names()
  prepare(tmp_path, 'imagenet2012', splits, shape=(None, None, 3), class_names=names, shards=2)
  values, data = run(tmp_path, 'imagenet100', workers=1)
  assert data == 'imagenet100 train, validation'
  assert values['linear'] > 0.9  # three classes of three brightnesses
  assert values['knn'] > 0.5


@pytest.mark.weekly
def test_stl10_trains_on_images_without_labels(tmp_path):
  names = [str(i) for i in range(10)]
  size = (96, 96, 3)
  splits = {
    'train': toy(20, size),
    'test': toy(8, size),
    'unlabelled': toy(20, size, label=-1),
  }
  prepare(tmp_path, 'stl10', splits, shape=size, class_names=names)
  _, data = run(tmp_path, 'stl10')
  assert data == 'stl10 train, test'


@pytest.mark.weekly
def test_tiny_imagenet_from_its_folder(tmp_path):
  folder, lines = tmp_path / 'tiny-imagenet-200', []

  def picture(file, i):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB' if i % 3 else 'L', (64, 64), (200 if i % 2 else 40) + i).save(file)

  for i in range(40):
    name = ('n01443537', 'n02124075')[i % 2]
    picture(folder / 'train' / name / 'images' / f'{name}_{i}.JPEG', i)
  for i in range(10):
    picture(folder / 'val' / 'images' / f'val_{i}.JPEG', 40 + i)
    lines.append(f'val_{i}.JPEG\t{("n01443537", "n02124075")[i % 2]}\t0\t0\t9\t9\n')
  (folder / 'val' / 'val_annotations.txt').write_text(''.join(lines))
  values, _ = run(tmp_path, 'tiny_imagenet', name=f'folder:{folder}', workers=1)
  assert values['linear'] == 1.0


@pytest.fixture(scope='module')
def rectangles(tmp_path_factory):
  """Images of two classes and many sizes in two splits; some are larger than the canvases of 32."""
  root, rng = tmp_path_factory.mktemp('rectangles'), np.random.default_rng(0)
  for i in range(120):
    place = root / ('test' if i % 5 == 0 else 'train') / 'ab'[i % 2]
    place.mkdir(parents=True, exist_ok=True)
    height, width = rng.integers(9, 50, 2)
    pixels = rng.integers(0, 128, (height, width, 3)) + 100 * (i % 2)
    Image.fromarray(pixels.astype(np.uint8)).save(place / f'{i}.png')
  return root


@pytest.mark.weekly
def test_whole_images_in_processes_resident_and_after_a_kill(zygote, rectangles, tmp_path):
  """1 = 2 = 4 processes, streamed = resident, and a killed run is one that was not."""
  whole, dies = (
    zygote.script(tmp_path, 'tests.processes.child', fault) for fault in ('none', 'kill_in_step')
  )
  options = [
    f'--config.data.name=folder:{rectangles}',
    '--config.batch_size=32',
    '--config.num_epochs=6',
    '--config.augment.name=rrc_flip',
    '--config.model.mean=(0.5,)',
    '--config.eval_every=0',
  ]
  streamed = '--config.data.mode=streamed', '--config.data.workers=1'

  def trained(name, processes, *more, program=whole, code=0):
    started = start_training(program, processes, tmp_path / name, *options, *more, method='simclr')
    found, output = ended(started)
    assert found == code, output
    return rows_of(tmp_path / name)

  rows = trained('one', 1, *streamed)
  assert rows[-1]['step'] == 18
  for processes in (2, 4):
    assert_same(trained(f'{processes}', processes, *streamed), rows)
  trained('resident', 1)
  assert_same_to_the_bit(tmp_path / 'resident', tmp_path / 'one')
  trained('killed', 1, *streamed, program=dies, code=-signal.SIGKILL)
  trained('killed', 1, *streamed)
  assert_same_to_the_bit(tmp_path / 'killed', tmp_path / 'one')


def _fails_at(folder, size):
  """(example, seed, step): the damaged one, met by the second of two processes after a save."""
  source = load_source('toy', data_dir=str(folder), image_size=8)
  for bad in range(size):
    try:
      source.load(np.array([bad]))
    except UserError:
      break
  for seed in range(100):
    for step in range(5, 9):
      order = batch_indices(seed, step, num_examples=size, batch_size=16).tolist()
      if bad in order[8:]:
        return bad, seed, step
  raise AssertionError('no seed')


@pytest.mark.weekly
def test_two_processes_end_at_a_damaged_record_and_go_on_when_it_is_restored(zygote, tmp_path):
  data = tmp_path / 'data'
  splits = {'train': toy(320, (40, 40, 3)), 'test': toy(32, (40, 40, 3))}
  file = prepare(data, 'toy', splits, shape=(40, 40, 3), shards=2)
  file = file / 'toy-train.array_record-00001-of-00002'
  whole = file.read_bytes()
  damage(file, 'flip')
  bad, seed, step = _fails_at(data, 320)
  program = zygote.script(tmp_path, 'clr_jax')
  options = [
    f'--config={TINY}:simclr',
    f'--workdir={tmp_path / "run"}',
    f'--config.data.data_dir={data}',
    '--config.data.name=toy',
    '--config.data.mode=streamed',
    '--config.data.workers=1',
    '--config.data.image_size=8',
    f'--config.seed={seed}',
    '--config.batch_size=16',
    '--config.eval_every=0',
    '--config.checkpoint_every=0.2',  # 4 steps
    '--config.stop_at_epoch=0.6',  # 12 steps
  ]
  code, output = ended(launch(program, 2, 'train', *options))
  assert code == 2, output
  said = [line for line in output.splitlines() if 'clr-jax:' in line]
  assert len(said) == 2, output
  (reason,) = (line for line in said if line.startswith('[1] '))
  assert f'clr-jax: cannot read the example {bad} of toy train in {file} (' in reason
  assert '[0] clr-jax: exiting with code 2 because process 1 did: see its message' in said
  assert 'Traceback' not in output and 'Check failure' not in output
  assert max(int(p.name) for p in (tmp_path / 'run/checkpoints').iterdir()) == step
  file.write_bytes(whole)
  code, output = ended(launch(program, 2, 'train', *options))
  assert code == 0 and f'at step {step}' in output, output
