import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from clr_jax.evaluate.features import Features
from clr_jax.evaluate.linear import linear
from clr_jax.evaluate.subsets import stratified_subset
from clr_jax.types import UserError

rng = np.random.default_rng(0)
CENTRES = rng.normal(size=(4, 6))


def features(num, seed, noise=0.8):
  rng = np.random.default_rng(seed)
  label = np.arange(num) % 4 + 10
  h = CENTRES[label - 10] + noise * rng.normal(size=(num, 6))
  # Scales and offsets that standardising removes, and a constant feature.
  h = np.concatenate([h * 10.0 ** np.arange(-2, 4) + 3, np.full((num, 1), 5.0)], axis=1)
  return Features(h.astype(np.float32), label.astype(np.int32))


TRAIN, TEST = features(200, 1), features(100, 2)


def sklearn_accuracy(rows, c=1.0):
  scaler = StandardScaler().fit(TRAIN.h)
  model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000)
  model.fit(scaler.transform(TRAIN.h[rows]), TRAIN.label[rows])
  return model.score(scaler.transform(TEST.h), TEST.label)


def test_all_labels_equal_scikit_learn():
  (got,) = linear(TRAIN, TEST, draws=3)  # nothing is random
  assert got.metric == 'top1' and got.protocol == 'linear' and got.features == 'trained'
  assert got.value == pytest.approx(sklearn_accuracy(slice(None)), abs=0.011)
  assert got.seconds > 0
  wanted = {'solver': 'lbfgs', 'l2': 1.0, 'num_labels': 200, 'label_fraction': 1.0, 'draw': 0}
  assert wanted.items() <= got.params.items() and got.params['standardise'] is True


def test_few_labels_are_standardised_with_all_features():
  got = linear(TRAIN, TEST, label_fraction=[0.03, 0.2], draws=2, seed=5, features='pixels')
  assert [m.params['num_labels'] for m in got] == [6, 6, 40, 40]
  assert [m.params['draw'] for m in got] == [0, 1, 0, 1]
  assert {m.features for m in got} == {'pixels'}
  for m in got:
    seed = np.random.SeedSequence([5, m.params['draw']]).generate_state(3)[0]
    rows = stratified_subset(TRAIN.label, m.params['num_labels'], seed=int(seed))
    assert m.value == pytest.approx(sklearn_accuracy(rows), abs=0.011)
  again = linear(TRAIN, TEST, label_fraction=[0.03, 0.2], draws=2, seed=5)
  assert [m.value for m in again] == [m.value for m in got]


@pytest.mark.parametrize('sweep', [[1e4, 1.0, 1e-3], [1e-3, 1.0, 1e4]])
def test_sweep_is_decided_by_held_out_training_labels(sweep):
  got = linear(TRAIN, TEST, label_fraction=0.5, l2=sweep)[0]
  assert got.params['l2_candidates'] == sweep
  assert got.params['l2_chosen_by'] == 'accuracy on 20 held-out training labels'
  # The same decision by hand, with scikit-learn.
  subset_seed, split_seed, _ = np.random.SeedSequence([0, 0]).generate_state(3).tolist()
  rows = stratified_subset(TRAIN.label, 100, seed=subset_seed)
  fitted = rows[stratified_subset(TRAIN.label[rows], 80, seed=split_seed)]
  held_out = np.setdiff1d(rows, fitted)
  h = StandardScaler().fit_transform(TRAIN.h)
  quality = {}
  for l2 in sweep:
    model = LogisticRegression(C=1 / l2, max_iter=10_000).fit(h[fitted], TRAIN.label[fitted])
    loss = log_loss(TRAIN.label[held_out], model.predict_proba(h[held_out]))
    quality[l2] = (model.score(h[held_out], TRAIN.label[held_out]), -loss)
  assert len({score for score, _ in quality.values()}) > 1  # there is something to decide
  assert got.params['l2'] == max(sweep, key=quality.__getitem__)
  # Fitted again to all labels of the subset; other test labels change nothing but the value.
  assert got.value == linear(TRAIN, TEST, label_fraction=0.5, l2=got.params['l2'])[0].value
  wrong = TEST._replace(label=(TEST.label - 9) % 4 + 10)
  other = linear(TRAIN, wrong, label_fraction=0.5, l2=sweep)[0]
  assert other.params == got.params and other.value < got.value


def test_sgd_reports_last_and_best():
  got = linear(
    TRAIN, TEST, solver='sgd', standardise=True, epochs=8, base_lr=[1e-4, 0.3], batch_size=4096
  )
  last, best = got
  assert last.params['selection'] == 'last' and best.params['selection'] == 'best_on_test'
  assert last.params['epoch'] == 8 and 1 <= best.params['epoch'] <= 8
  assert best.value >= last.value > 0.6
  assert last.params['base_lr'] == 0.3 and last.params['batch_size'] == 200
  assert last.params['momentum'] == 0.9 and last.params['standardise'] is True
  assert linear(TRAIN, TEST, solver='sgd', epochs=1)[0].params['standardise'] is False


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'train': TRAIN._replace(label=None)}, 'needs labels'),
    ({'test': TEST._replace(label=None)}, 'needs labels'),
    ({'test': TEST._replace(label=TEST.label + 1)}, 'class 14 of the test set'),
    ({'label_fraction': 0.01}, '2 labels are too few for 4 classes'),
    ({'label_fraction': 1.5}, 'not in'),
    ({'label_fraction': 0.02, 'l2': [1.0, 2.0]}, '4 labels are too few to choose'),
    ({'solver': 'newton'}, "unknown linear solver 'newton'"),
    ({'base_lr': 0.1}, "'lbfgs' has no option 'base_lr'"),
  ],
)
def test_bad_input(change, message):
  with pytest.raises(UserError, match=message):
    linear(**{'train': TRAIN, 'test': TEST, **change})
