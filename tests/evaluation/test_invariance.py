"""Invariance of results, and absence of side effects of an evaluation."""

import hashlib

import jax
import numpy as np
import pytest

from clr_jax.evaluation.probing.features import extract
from clr_jax.evaluation.protocols import linear_augmented
from clr_jax.evaluation.protocols.knn import knn
from clr_jax.evaluation.protocols.linear import linear
from clr_jax.experiment import build
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.ops import sharding
from clr_jax.rundir import results, workdir
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.identity import open_run
from tests.cli.calling import call
from tests.evaluation.network import make_subject

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('invariance')]  # runs made once


@pytest.fixture(scope='module')
def subject():
  """BatchNorm's running statistics are those of 1,437 digits, which no batch below has."""
  return make_subject(kind='untrained')


def test_numbers_do_not_depend_on_the_batch_or_the_devices(subject):
  """Each batch size puts other images beside an image: BatchNorm in train mode would show."""
  represent, (train, test) = subject.experiment.method.represent, subject.sets

  def numbers(**options):
    bank, queries = (extract(represent, *weights, s, **options) for s in (train, test))
    found = [*knn(bank, queries, k=10), *linear(bank, queries, label_fraction=0.5)]
    return bank.h, [m.value for m in found]

  weights = subject.weights
  whole, first = numbers()
  assert min(first) > 0.3 and np.ptp(whole, axis=0).min() > 1e-3
  mesh = sharding.make_mesh()
  weights = jax.device_put(subject.weights, sharding.replicated(mesh))
  h, again = numbers(batch_size=16, mesh=mesh)
  np.testing.assert_allclose(h, whole, rtol=1e-4, atol=1e-5)
  assert again == pytest.approx(first, abs=0.011)  # one test image


def test_an_image_alone_has_the_features_it_has_among_others(subject):
  take = lambda rows: extract(  # noqa: E731
    subject.experiment.method.represent,
    *subject.weights,
    subject.sets.train,
    indices=np.array(rows),
  )
  alone, copies = take([7]).h[0], take([7, 7, 7]).h
  among = take(list(range(120))).h[7]
  for h in (*copies, among):
    np.testing.assert_allclose(h, alone, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope='module')
def run(subject, tmp_path_factory):
  """A run with the checkpoint of step 0."""
  directory = tmp_path_factory.mktemp('run')
  config = subject.experiment.config
  open_run(workdir.Workdir(directory), config, keys_without_effect(config))
  params, state = subject.weights
  with Checkpoints(directory) as checkpoints:
    assert checkpoints.save(0, subject.experiment.init().replace(params=params, state=state))
  return directory


def digest(directory):
  files = sorted(p for p in directory.rglob('*') if p.is_file())
  return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_an_evaluation_changes_no_checkpoint_and_no_mode_changes_a_number(run, monkeypatch):
  one = sharding.make_mesh(jax.devices()[:1])
  monkeypatch.setattr(build.sharding, 'make_mesh', lambda devices=None: one)
  before = digest(run / 'checkpoints')
  assert before
  modes = 'resident', 'streamed'
  for mode in modes:
    arguments = f'--workdir={run}', f'--config.data.mode={mode}', '--overwrite'
    monkeypatch.setattr('clr_jax.evaluation.probing.subject._FeatureCache.of', lambda subject: None)
    assert call('evaluate', 'knn', *arguments) == 0
    few = '--params.label_fraction=0.1,1.0', '--params.per_class=1,2', '--params.draws=2'
    assert call('evaluate', 'few-label', *arguments, *few) == 0
    assert call('evaluate', 'linear', *arguments, '--params.solver=sgd', '--params.epochs=2') == 0
  assert digest(run / 'checkpoints') == before
  values = [r['value'] for r in results.read_results(workdir.Workdir(run))]
  half = len(values) // 2
  assert half == 1 + 2 + 1 + 2 + 2 + 2  # kNN; 10 %, all, 1 and 2 a class; last and best epoch
  assert values[:half] == values[half:]
  assert len(set(values)) > 4
  table = (run / 'figures' / 'few_label.csv').read_text().splitlines()
  (first,) = {line.partition(',')[0] for line in table[1:] if '(lbfgs)' in line}
  assert first == f'{run.name}: linear layer on trained features (lbfgs)'
  assert len(table) == 1 + 4 + 1  # and SGD's


def test_linear_augmented(subject):
  options = {'epochs': 20, 'batch_size': 32, 'normalize': 'standardize', 'base_lr': 2.0}
  last, best = linear_augmented.measure(subject, augmentations=2, policy='crop_flip', **options)
  assert (last.protocol, last.params['preset']) == ('linear_augmented', 'sogclr')
  assert (last.params['augmentations'], last.params['policy']) == (2, 'crop_flip')
  assert last.params['num_labels'] == 120 and best.value >= last.value
  plain = linear(*subject.features, preset='sogclr', **options)[0]
  copy = next(linear_augmented.measure(subject, augmentations=1, policy='none', **options))
  assert copy.value == pytest.approx(plain.value, abs=0.011) and plain.value > 0.3
  assert last.value != plain.value
