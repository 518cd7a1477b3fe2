"""Runs on unlabeled images, evaluated on labeled ones; what is measured again and what is not."""

import errno
import json

import jax
import numpy as np
import pytest

from clr_jax import data
from clr_jax.core import storage
from clr_jax.core.errors import UserError
from clr_jax.core.storage import atomic_write
from clr_jax.evaluation import runner
from clr_jax.evaluation.probing.features import Features
from clr_jax.experiment import config_base as common
from clr_jax.experiment.build import Experiment, build_experiment
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir import codec, workdir
from clr_jax.rundir import results as results_lib
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.identity import open_run
from clr_jax.rundir.rows import read_metrics
from clr_jax.training import loop as train
from tests.cli.calling import call
from tests.evaluation.runs import (
  one_device,  # noqa: F401  (a fixture)
  results,
  tiny,
)


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
  """npz files of the digits: 1,000 unlabelled, 437 for training with labels, 360 for testing."""
  folder = tmp_path_factory.mktemp('digits')
  for split, part in (('unlabelled', ':1000'), ('train', '1000:'), ('test', ':')):
    base = 'test' if split == 'test' else 'train'
    image, label = data.load_source('digits', split=f'{base}[{part}]').arrays()
    labels = {} if split == 'unlabelled' else {'label': label}
    np.savez(folder / f'{split}.npz', image=image, **labels)
  return folder


@pytest.fixture(scope='module')
def unlabeled(digits, tmp_path_factory):
  """A run on one file of images: no labels, no test set, a table of 1,000 rows and no probe.

  Its checkpoint is that of step 0, which costs no compilation of the train step.
  """
  directory = tmp_path_factory.mktemp('unlabeled')
  config = tiny(**{'data.name': f'npz:{digits}/unlabelled.npz', 'data.test_split': ''})
  open_run(workdir.Workdir(directory), config, keys_without_effect(config))
  state = build_experiment(config).init()
  assert state.state['per_example']['log_u'].shape == (1024,) and 'probe' not in state.params
  with Checkpoints(directory) as checkpoints:
    assert checkpoints.save(0, state)
  return directory


@pytest.mark.slow
def test_a_size_of_evaluation_images_that_the_network_does_not_take_is_refused(
  tmp_path, nothing_compiles
):
  config = tiny(**{'data.image_size': 10, 'eval.protocols': {'knn': {'k': 5}}})
  config.model = common.model('vit_tiny', width=8, depth=1, heads=2, patch=4)
  with pytest.raises(UserError, match=r'patches of 4 pixels do not tile images of 10x10: change'):
    train.train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_a_run_on_unlabeled_images_is_evaluated_on_labeled_ones(unlabeled, digits, capsys):
  arguments = f'--workdir={unlabeled}', f'--config.eval.data=npz:{digits}/{{split}}.npz'
  kinds = '--features=trained,pixels'
  assert call('evaluate', 'knn', *arguments, '--config.eval.test_split=test', kinds) == 0
  out, err = capsys.readouterr()
  assert 'knn' in out and '\nknn on trained features ...\n' in err
  records = results(unlabeled)
  assert [r['features'] for r in records] == ['trained', 'pixels']
  assert all(r['value'] > 0.2 for r in records)  # chance is 0.1
  sums = [data.load_source(f'npz:{digits}/{s}.npz').checksum() for s in ('train', 'test')]
  for record in records:
    assert record['data_checksum'] == ' '.join(sums)
    assert record['data'] == f'npz:{digits}/{{split}}.npz train, test'
    assert record['step'] == 0
  stored = json.loads((unlabeled / 'config.json').read_text())
  assert records[0]['config_hash'] == stored['config_hash']


def test_evaluating_on_more_data_than_trained_on(unlabeled, capsys):
  """Other digits, and twice over: the table of the training set has another size there."""
  digits = '--config.eval.data=digits', '--config.eval.test_split=test'
  assert call('evaluate', 'knn', f'--workdir={unlabeled}', *digits) == 0
  replaced = '--config.data.name=digits', '--config.data.test_split=test'
  assert call('evaluate', 'knn', '--overwrite', f'--workdir={unlabeled}', *replaced) == 0
  first, second = results(unlabeled)[-2:]
  assert first['data'] == second['data'] == 'digits train, test'
  assert first['value'] == second['value']
  out, err = capsys.readouterr()
  assert 'evaluation, test images: digits test, 360 images of 8x8x1, 10 classes (0, 1,' in err
  header, *rows = [line for line in out.splitlines() if line[0] != ' ']  # without params' rests
  several = len({record['data'] for record in results(unlabeled)}) > 1  # other tests' records
  assert (header.split()[-1] == 'data') == several == rows[-1].endswith('  digits train, test')


@pytest.mark.slow
def test_what_flags_change_of_the_network_is_measured_anew(unlabeled):
  digits = '--config.eval.data=digits', '--config.eval.test_split=test', '--params.k=3'
  counts = [len(results(unlabeled))]
  for seed in (1, 1, 2, 1):
    assert call('evaluate', 'knn', f'--workdir={unlabeled}', *digits, f'--config.seed={seed}') == 0
    counts.append(len(results(unlabeled)))
  assert np.diff(counts).tolist() == [1, 0, 1, 0]
  hashes = [record['config_hash'] for record in results(unlabeled)[-2:]]
  assert hashes[0] != hashes[1]


def test_one_class_is_not_evaluated(tmp_path, capsys):
  rng = np.random.default_rng(0)
  for split in ('train', 'test'):
    image = rng.integers(0, 256, (70, 8, 8), np.uint8)
    np.savez(tmp_path / f'{split}.npz', image=image, label=np.full(70, 7))
  experiment = build_experiment(
    tiny('simclr', **{'data.name': f'{tmp_path}/{{split}}.npz', 'num_epochs': 1.0})
  )
  assert experiment.info.num_classes is None  # no probe, no supervision
  sets = runner.check(experiment)
  runner.say_data(experiment, sets)
  runner.offline(experiment, sets, None, None, '')
  out, err = capsys.readouterr()
  assert out == 'the evaluation (knn) is skipped: there is one class only\n'
  (train, test) = err.splitlines()
  assert train.startswith(
    f'training images: {tmp_path}/{{split}}.npz train, 70 images of 8x8x1, one'
  )
  assert 'one class only (7), so there is nothing to classify' in test
  with pytest.raises(UserError, match=r'evaluation needs two classes or more and .* has one'):
    sets.refuse_unlabeled()


def test_classes_that_a_slice_of_the_training_set_lacks(tmp_path):
  for split in ('train', 'test'):
    image, label = np.zeros((140, 8, 8), np.uint8), np.arange(140) // 70  # sorted by class
    np.savez(tmp_path / f'{split}.npz', image=image, label=label)
  config = tiny('simclr', **{'data.name': f'{tmp_path}/{{split}}.npz', 'num_epochs': 1.0})
  config.data.train_split = 'train[:70]'
  runner.check(build_experiment(config))  # kNN counts them as wrong
  config.eval.protocols = {'linear': {}}
  with pytest.raises(UserError, match=r'the 2 classes of .* are not the 1 of .* no image of 1:'):
    runner.check(build_experiment(config))


@pytest.mark.parametrize('damage', ['gone', 'cut, of an earlier version'])
def test_a_damaged_result_is_said_and_measured_again(unlabeled, capsys, damage):
  command = 'evaluate', 'knn', f'--workdir={unlabeled}', '--config.eval.data=digits', '--params.k=6'
  assert call(*command, '--config.eval.test_split=test') == 0
  before, folder = results(unlabeled), unlabeled / 'results'
  (path,) = (p for p in folder.glob('*.json') if json.loads(p.read_text())['params'].get('k') == 6)
  if damage == 'gone':
    path.unlink()
  else:
    path.write_text(path.read_text()[:40])
  if 'earlier' in damage:
    for marker in (folder / 'complete').iterdir():
      marker.write_text('')
  capsys.readouterr()
  for measured in (1, 0):
    assert call(*command, '--config.eval.test_split=test') == 0
    said = capsys.readouterr()
    assert said.err.count('measured again') == measured and 'k=6' in said.out
  assert [r['value'] for r in results(unlabeled)] == [r['value'] for r in before]


def test_where_nothing_can_be_written_the_table_is_printed(unlabeled, capsys, monkeypatch):
  def refuse(path, content):
    raise OSError(errno.EROFS, 'Read-only file system')

  for module in (storage, results_lib, runner, codec):
    monkeypatch.setattr(module, 'atomic_write', refuse)
  before = sorted(unlabeled.rglob('*'))
  command = 'evaluate', 'knn', f'--workdir={unlabeled}', '--config.eval.data=digits', '--params.k=7'
  assert call(*command, '--config.eval.test_split=test') == 0
  out, err = capsys.readouterr()
  assert 'cannot be written (Read-only file system): the results are printed and not kept' in err
  assert 'k=7' in out and sorted(unlabeled.rglob('*')) == before


def test_features_that_are_not_finite_are_no_result(unlabeled, digits, capsys, monkeypatch):
  def nan(represent, params, state, source, **_):
    return Features(np.full([source.num_examples, 2], np.nan, np.float32), source.labels())

  monkeypatch.setattr('clr_jax.evaluation.probing.subject.extract', nan)
  monkeypatch.setattr('clr_jax.evaluation.probing.subject._FeatureCache.of', lambda _: None)
  before = sorted(unlabeled.rglob('*'))
  sets = f'--config.eval.data=npz:{digits}/{{split}}.npz', '--config.eval.test_split=test'
  new = '--features=trained', '--params.k=9'
  assert call('evaluate', 'knn', f'--workdir={unlabeled}', *sets, *new) == 2
  assert 'the trained features are not finite: choose another --step' in capsys.readouterr().err
  assert sorted(unlabeled.rglob('*')) == before


@pytest.mark.slow
def test_a_labeled_split_of_a_set_with_an_unlabeled_one(digits, tmp_path):
  """As in STL-10; at the end of training the same sets are used as by `clr-jax evaluate`."""
  name = f'npz:{digits}/{{split}}.npz'
  named = {'data.name': name, 'data.train_split': 'unlabelled', 'eval.train_split': 'train'}
  config = tiny('simclr', **named)
  train.train(config, str(tmp_path))
  (record,) = results(tmp_path)
  assert record['data'] == f'{name} train, test' and record['value'] > 0.5
  (online,) = [r for r in read_metrics(workdir.Workdir(tmp_path)) if 'rankme' in r]
  assert online['online_knn_top1'] == record['value']  # all 437 and 360 images
  assert 'online_probe_top1' not in online
  # A second start measures nothing again, unless the sets are others.
  train.train(config, str(tmp_path))
  assert len(results(tmp_path)) == 1
  train.train(tiny('simclr', **named, **{'eval.data': 'digits'}), str(tmp_path))
  assert [r['data'] for r in results(tmp_path)][1:] == ['digits train, test']
  assert call('evaluate', 'knn', f'--workdir={tmp_path}', '--params.k=5') == 0
  again = results(tmp_path)[-1]
  assert (again['value'], again['data']) == (results(tmp_path)[1]['value'], 'digits train, test')


@pytest.mark.slow
def test_the_probe_does_not_change_what_is_untrained():
  config = tiny('simclr')
  with_probe, without = build_experiment(config), build_experiment(config, probe=False)
  first, second = with_probe.init(), without.init()
  assert 'probe' in first.params and 'probe' not in second.params and config.probe.enabled
  same = jax.tree.map(np.array_equal, first.params['backbone'], second.params['backbone'])
  assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ([], ['data.test_split', 'eval.test_split']),
    (['--config.eval.data=npz:{digits}/unlabelled.npz', '--config.eval.test_split=test'], ['test']),
    (['--config.eval.data=npz:{digits}/{{split}}.npz'], ['eval.test_split']),
    (
      [
        '--config.eval.data=npz:{digits}/{{split}}.npz',
        '--config.eval.train_split=unlabelled',
        '--config.eval.test_split=test',
      ],
      ['unlabelled has none', 'eval.train_split'],
    ),
    (['--config.eval.data=digits', '--config.eval.test_split=tset'], ["'tset'"]),
    (['--config.eval.data=digtis', '--config.eval.test_split=test'], ['digtis', 'digits']),
    (['--config.eval.data=npz:{rgb}', '--config.eval.test_split=train'], ['3 channel', 'have 3']),
    (
      ['--config.eval.data=npz:{digits}/{{split}}.npz', '--config.eval.test_split=train[:9]'],
      ["9 images of eval.test_split='train[:9]' are also in data.train_split='train'"],
    ),
    (['--config.eval.dat=digits'], ['eval.dat', 'eval.data']),
  ],
)
def test_sets_that_do_not_fit(unlabeled, digits, tmp_path, capsys, options, words):
  np.savez(tmp_path / 'rgb.npz', image=np.zeros((9, 8, 8, 3), np.uint8), label=np.arange(9) % 3)
  places = {'digits': digits, 'rgb': tmp_path / 'rgb.npz'}
  before = len(results(unlabeled))
  code = call('evaluate', 'knn', f'--workdir={unlabeled}', *(o.format(**places) for o in options))
  out, err = capsys.readouterr()
  assert code == 2 and not out
  assert err.startswith('clr-jax: ') and err.count('\n') == 1
  for word in words:
    assert word in err
  assert len(results(unlabeled)) == before


def test_unfit_sets_are_refused_before_training(digits, tmp_path):
  name = f'npz:{digits}/{{split}}.npz'
  new = tmp_path / 'new'
  with pytest.raises(UserError, match='unlabelled has none'):
    train.train(tiny(**{'data.name': name, 'eval.train_split': 'unlabelled'}), str(new))
  with pytest.raises(UserError, match=r'label_fraction=0\.01 is 4 labels'):
    protocols = {'linear': {'label_fraction': 0.01}}
    train.train(tiny(**{'eval.data': name, 'eval.protocols': protocols}), str(new))
  assert not new.exists()


@pytest.mark.parametrize('mode', ['resident', 'streamed'])
def test_training_does_not_go_on_with_other_images(digits, tmp_path, monkeypatch, mode):
  """The same name, other content; a run that has not trained yet may still change its mind."""
  monkeypatch.setattr(train, 'start_or_resume', lambda *_: 1 / 0)  # where training would begin
  monkeypatch.setattr(Experiment, 'check_shapes', lambda self: None)  # takes seconds
  name, images = f'npz:{tmp_path}/images.npz', np.load(digits / 'train.npz')['image']
  config = tiny('simclr', **{'data.name': name, 'data.test_split': '', 'data.mode': mode})
  run = workdir.Workdir(tmp_path / 'run')

  def start(images):
    np.savez(tmp_path / 'images.npz', image=images)
    train.train(config, str(run.path))

  for part in (images[1:], images):
    with pytest.raises(ZeroDivisionError):
      start(part)
  atomic_write(run.metrics / 'row.jsonl', '{"step": 1}')
  with pytest.raises(UserError, match=r'have changed since it began \(number') as refused:
    start(images[1:])
  assert '\n' not in str(refused.value)
  flipped = pytest.raises(UserError, match=r'have changed since it began \(checksum\)')
  # Streamed images are not all read for it.
  with flipped if mode == 'resident' else pytest.raises(ZeroDivisionError):
    start(images[::-1])
  with pytest.raises(ZeroDivisionError):
    start(images)
