"""`clr-jax evaluate robustness` and its figures on tiny runs, and what is refused."""

import hashlib
import types

import jax
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation.attacks.base import logits_of
from clr_jax.evaluation.attacks.named import NamedAttack
from clr_jax.evaluation.corruptions import VALIDATION
from clr_jax.evaluation.probing.classifier import classifier
from clr_jax.evaluation.probing.sets import Sets, evaluation_sets
from clr_jax.evaluation.probing.subject import Subject
from clr_jax.evaluation.protocols import robustness
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.rundir import results as results_lib
from clr_jax.rundir import weights, workdir
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.config_records import read_config
from clr_jax.rundir.identity import open_run
from tests.cli.calling import call
from tests.evaluation.runs import (
  TINY,
  one_device,  # noqa: F401  (a fixture)
)

FAST = ('--params.num_images=12', '--params.batch_size=8', '--params.steps=3')


pytestmark = pytest.mark.xdist_group('robustness')  # runs made once


def started(directory, method):
  """A run whose checkpoint is that of step 0: nothing of the train step is compiled."""
  config = load(f'{TINY}:{method}')
  with config.unlocked():
    config.data.train_split = 'train[:300]'
  open_run(workdir.Workdir(directory), config, keys_without_effect(config))
  with Checkpoints(directory) as checkpoints:
    assert checkpoints.save(0, build_experiment(config).init())
  return directory


@pytest.fixture(scope='module')
def contrastive(tmp_path_factory):
  return started(tmp_path_factory.mktemp('contrastive'), 'simclr')


@pytest.fixture(scope='module')
def supervised(tmp_path_factory):
  return started(tmp_path_factory.mktemp('supervised'), 'supervised')


def subject(directory, **kwargs):
  config = read_config(workdir.Workdir(directory))
  experiment = build_experiment(config)
  network = weights.restore_network(workdir.Workdir(directory), experiment.abstract_state)
  return Subject(experiment, evaluation_sets(experiment), network, **kwargs)


def records(directory):
  return results_lib.read_results(workdir.Workdir(directory))


def files(directory):
  found = sorted(p for p in (directory / 'checkpoints').rglob('*') if p.is_file())
  return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.mark.slow
def test_attacks_of_two_runs_are_kept_once_and_leave_the_checkpoint(
  contrastive, supervised, capsys
):
  before = files(contrastive)
  directories = f'--workdir={contrastive}', f'--workdir={supervised}'
  attacks = '--params.attack=pgd_l2,early_stop_l2'
  assert call('evaluate', 'robustness', *directories, attacks, *FAST) == 0
  shown = capsys.readouterr().out
  assert 'robust_top1' in shown and str(contrastive) in shown and str(supervised) in shown
  assert files(contrastive) == before
  for directory in (contrastive, supervised):
    found = records(directory)
    assert {r['params']['attack'] for r in found} == {'pgd_l2', 'early_stop_l2'}
    (pgd,) = (
      r for r in found if r['metric'] == 'median_distance' and r['params']['attack'] == 'pgd_l2'
    )
    arrays = results_lib.read_arrays(workdir.Workdir(directory), pgd)
    assert arrays['distance'].shape == arrays['index'].shape == (12,)
    np.testing.assert_array_equal(arrays['distance'] == 0, ~arrays['correct'])
    assert pgd['value'] == np.median(arrays['distance'])
    robust = [
      r for r in found if r['metric'] == 'robust_top1' and r['params']['attack'] == 'pgd_l2'
    ]
    assert [r['params']['epsilon'] for r in robust] == [0.1, 0.25, 0.5, 1.0]
    for r in robust:
      assert r['value'] == np.mean(arrays['distance'] > r['params']['epsilon'])
  count = len(records(contrastive))
  assert call('evaluate', 'robustness', *directories, attacks, *FAST) == 0
  assert len(records(contrastive)) == count
  more = '--params.attack=pgd_l2,pgd_linf'
  assert call('evaluate', 'robustness', f'--workdir={contrastive}', more, *FAST) == 0
  added = records(contrastive)[count:]
  assert {r['params']['attack'] for r in added} == {'pgd_linf'}


@pytest.mark.slow
def test_plb_and_corruptions(supervised):
  small = '--params.outer=2', '--params.inner=2', '--params.severities=1,5'
  attacks = '--params.attack=plb_l2,corruptions'
  assert call('evaluate', 'robustness', f'--workdir={supervised}', attacks, *small, *FAST) == 0
  found = {(r['params']['attack'], r['metric']): r for r in records(supervised)}
  run = workdir.Workdir(supervised)
  distance = results_lib.read_arrays(run, found['plb_l2', 'median_distance'])['distance']
  assert np.isfinite(distance).sum() > 6  # an untrained network is easily fooled
  table = results_lib.read_arrays(run, found['corruptions', 'mean_corrupted_top1'])
  assert table['top1'].shape == (len(table['family']), 2)
  assert found['corruptions', 'mean_corrupted_top1']['value'] == pytest.approx(
    table['top1'][~np.isin(table['family'], VALIDATION)].mean()
  )


@pytest.mark.slow
def test_the_classifier_is_logistic_regression_on_unit_features(contrastive):
  """Against scikit-learn; and attacked where it was trained: on unit features."""
  from sklearn.linear_model import LogisticRegression
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  one = subject(contrastive)
  network = classifier(one)
  train, test = (part.h / np.linalg.norm(part.h, axis=1, keepdims=True) for part in one.features)
  labels = [part.label for part in one.features]
  reference = make_pipeline(StandardScaler(), LogisticRegression(C=1, max_iter=5000, tol=1e-8))
  reference.fit(train, labels[0])
  image, _ = one.sets.test.load(np.arange(64))
  logits = np.asarray(logits_of(network, image.astype(np.float32) / 255))
  expected = reference.decision_function(test[:64])
  logits, expected = (x - x.mean(1, keepdims=True) for x in (logits, expected))
  np.testing.assert_allclose(logits, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch_size(supervised):
  one = subject(supervised)

  def distances(batch_size):
    measured = robustness.measure(
      one, attack='pgd_linf', num_images=10, steps=3, restarts=2, batch_size=batch_size
    )
    return next(m.arrays['distance'] for m in measured if m.metric == 'median_distance')

  np.testing.assert_allclose(distances(10), distances(4), atol=1e-6)


@pytest.mark.slow
def test_rounding_does_not_save_an_image(supervised, monkeypatch):
  """In float32 (x + 1/255) - x is up to 8e-6 times more than 1/255."""

  def fooled(problem, keys, pool):
    images = np.asarray(problem.images)
    moved = np.clip(images + np.float32(problem.epsilon), 0, 1)
    return np.abs(moved - images).max((1, 2, 3))

  attack = NamedAttack('linf', fooled, 'each', ())
  monkeypatch.setattr(robustness, 'ATTACKS', {'pgd_linf': attack})
  measured = list(robustness.measure(subject(supervised), attack='pgd_linf', num_images=10))
  assert {m.value for m in measured if m.metric == 'robust_top1'} == {0.0}
  (distance,) = (m.arrays['distance'] for m in measured if m.arrays is not None)
  assert distance.max() <= 1 / 255


@pytest.mark.slow
def test_features_are_kept_and_read_again(contrastive, tmp_path, monkeypatch):
  run = workdir.Workdir(tmp_path)
  monkeypatch.setattr('clr_jax.evaluation.probing.subject.code_version', lambda: '1')
  first = subject(contrastive, run=run).features
  (kept,) = (tmp_path / 'features').glob('*.npz')

  def never(*args, **kwargs):
    raise AssertionError('computed again')

  with monkeypatch.context() as patch:
    patch.setattr('clr_jax.evaluation.probing.subject.extract', never)
    for one, two in zip(first, subject(contrastive, run=run).features, strict=True):
      jax.tree.map(np.testing.assert_array_equal, one, two)
    patch.setattr('clr_jax.evaluation.probing.subject.code_version', lambda: '2')
    with pytest.raises(AssertionError, match='computed again'):
      _ = subject(contrastive, run=run).features
  kept.write_bytes(b'damaged')
  np.testing.assert_array_equal(subject(contrastive, run=run).features[0].h, first[0].h)


@pytest.mark.parametrize(
  ('option', 'words'),
  [
    ('attack=pgd_l3', ['pgd_l3', 'pgd_l2', 'corruptions']),
    ('epsilons=0.', ['epsilons=(0.0,)', 'of at least 1e-09']),
    ('steps=0', ['steps=0', 'at least 1']),
    ('num_images=0', ['num_images=0']),
    ('severities=6', ['severities=(6,)', 'at most 5']),
    ('severities=', ['severities=()', 'not empty']),
    ('epsilons=nan', ["epsilons=('nan',)", 'number']),
    ('loss=hinge', ['hinge', 'margin']),
    ('barrier=steel', ['steel', 'probs']),
    ('prox_weight=0', ['prox_weight=0.0', 'of at least 1e-09']),
    ('seed=4294967296', ['seed=4294967296', 'less than 4294967296']),
    ('head=own', ['simclr', 'head=linear']),
  ],
)
def test_refused_with_one_sentence(contrastive, capsys, option, words):
  assert call('evaluate', 'robustness', f'--workdir={contrastive}', f'--params.{option}') == 2
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert not any(r['params']['num_images'] > 12 for r in records(contrastive))  # nothing was done
  assert error.startswith('clr-jax: ')
  for word in words:
    assert word in error


@pytest.mark.parametrize(
  ('attack', 'shape', 'classes', 'message'),
  [
    ('corruptions', (8, 8, 2), 10, '1 or 3 channels'),
    ('corruptions', (7, 9, 1), 10, 'at least 8x8 pixels, not 7x9'),
    ('worst_case_l2', (2, 9, 1), 10, 'at least 3x3 pixels'),
    ('worst_case_l2', (8, 8, 1), 3, '4 classes or more, not 3'),
  ],
)
def test_images_that_an_attack_is_not_for(attack, shape, classes, message):
  source = types.SimpleNamespace(image_shape=shape, num_classes=classes)
  with pytest.raises(UserError, match=message):
    robustness.check(Sets(source, source), {'attack': attack})  # type: ignore
  robustness.check(Sets(source, source), {'attack': 'pgd_l2'})  # type: ignore


def test_pixels_have_no_network(contrastive, capsys):
  assert call('evaluate', 'robustness', f'--workdir={contrastive}', '--features=pixels') == 2
  assert 'needs a network' in capsys.readouterr().err
