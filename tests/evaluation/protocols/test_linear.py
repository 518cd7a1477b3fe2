import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from clr_jax.core.errors import UserError
from clr_jax.evaluation.probing.features import Features
from clr_jax.evaluation.probing.logistic import fit_sgd
from clr_jax.evaluation.probing.presets import PRESETS
from clr_jax.evaluation.probing.subsets import stratified_subset
from clr_jax.evaluation.protocols.linear import linear

rng = np.random.default_rng(0)
CENTERS = rng.normal(size=(4, 6))


def features(num, seed, noise=0.8):
  rng = np.random.default_rng(seed)
  label = np.arange(num) % 4 + 10
  h = CENTERS[label - 10] + noise * rng.normal(size=(num, 6))
  # Scales and offsets that standardizing removes, and a constant feature.
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
  assert wanted.items() <= got.params.items() and got.params['normalize'] == 'standardize'


def test_few_labels_are_standardized_with_all_features():
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


@pytest.mark.slow
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
    TRAIN, TEST, solver='sgd', standardize=True, epochs=8, base_lr=[1e-4, 0.3], batch_size=4096
  )
  last, best = got
  assert last.params['selection'] == 'last' and best.params['selection'] == 'best_on_test'
  assert last.params['epoch'] == 8 and 1 <= best.params['epoch'] <= 8
  assert best.value >= last.value > 0.6
  assert last.params['base_lr'] == 0.3 and last.params['batch_size'] == 200
  assert last.params['momentum'] == 0.9 and last.params['normalize'] == 'standardize'
  assert linear(TRAIN, TEST, solver='sgd', epochs=1)[0].params['normalize'] == 'none'


def test_sgd_sweeps_two_hyper_parameters_on_held_out_labels():
  rates, decays = [1e-4, 0.3], [0.0, 100.0]
  last, _ = linear(
    TRAIN, TEST, solver='sgd', standardize=True, epochs=4, base_lr=rates, weight_decay=decays
  )
  assert (last.params['base_lr'], last.params['weight_decay']) == (0.3, 0.0)
  assert last.params['weight_decay_candidates'] == decays
  assert last.params['base_lr_chosen_by'] == 'accuracy on 40 held-out training labels'
  alone = linear(TRAIN, TEST, solver='sgd', standardize=True, epochs=4, base_lr=0.3)[0]
  assert last.value == alone.value  # fitted again to all labels


@pytest.mark.parametrize('sweep', [{}, {'base_lr': [1e-4, 0.3]}])
def test_labels_held_out_choose_the_epoch_and_are_not_fitted(sweep):
  """The best epoch on them, found by hand: they are the test set of a fit to the other labels."""
  options = {'solver': 'sgd', 'normalize': 'standardize', 'epochs': 6, 'batch_size': 16}
  options['base_lr'] = 0.3
  last, best, chosen = linear(TRAIN, TEST, held_out=0.25, **{**options, **sweep})
  assert [m.params['selection'] for m in (last, best)] == ['last', 'best_on_test']
  assert chosen.params['selection'] == 'best_on_held_out' and chosen.params['held_out'] == 0.25
  assert last.params['epoch'] == 6 and last.params['base_lr'] == 0.3
  _, split_seed, fit_seed = np.random.SeedSequence([0, 0]).generate_state(3).tolist()
  fitted = stratified_subset(TRAIN.label, 150, seed=split_seed)
  held = np.setdiff1d(np.arange(200), fitted)
  scaler = StandardScaler().fit(TRAIN.h)
  sets = [
    (scaler.transform(h).astype(np.float32), label - 10)
    for h, label in ((TRAIN.h[held], TRAIN.label[held]), TEST)
  ]
  _, (on_held, on_test) = fit_sgd(
    scaler.transform(TRAIN.h[fitted]).astype(np.float32),
    TRAIN.label[fitted] - 10,
    **{'num_classes': 4, 'epochs': 6, 'batch_size': 16, 'base_lr': 0.3, 'seed': fit_seed},
    watch=sets,
  )
  assert last.value == pytest.approx(on_test[-1], abs=0.011)
  assert best.value == pytest.approx(on_test.max(), abs=0.011)
  assert chosen.value == pytest.approx(on_test[on_held.argmax()], abs=0.011)
  assert chosen.params['epoch'] == on_held.argmax() + 1


def test_lbfgs_held_out_labels_are_not_fitted():
  (got,) = linear(TRAIN, TEST, held_out=0.25, l2=[1e4, 1.0])
  assert got.params['l2'] == 1.0
  split_seed = int(np.random.SeedSequence([0, 0]).generate_state(2)[1])
  rows = stratified_subset(TRAIN.label, 150, seed=split_seed)
  assert got.value == pytest.approx(sklearn_accuracy(rows), abs=0.011)


@pytest.mark.parametrize('preset', PRESETS)
def test_a_preset_gives_defaults(preset):
  last, best = linear(TRAIN, TEST, preset=preset, epochs=1, batch_size=50)
  changed = {'epochs': 1, 'batch_size': 50}
  wanted = {'normalize': 'none', **PRESETS[preset], **changed, 'preset': preset, 'solver': 'sgd'}
  del wanted['epochs']  # recorded as the epoch
  assert {k: last.params[k] for k in wanted} == wanted
  assert last.params['epochs'] == last.params['epoch'] == 1
  assert {**last.params, 'selection': 'best_on_test'} == best.params
  # The same written out.
  late = ('preset', 'milestones', 'factor')  # milestones after the only epoch
  written = {k: v for k, v in wanted.items() if k not in late}
  assert linear(TRAIN, TEST, epochs=1, **written)[0].value == last.value


def test_another_schedule_than_the_presets():
  """Options of the preset's schedule are dropped; given options count."""
  options = {'preset': 'robustness', 'epochs': 2, 'batch_size': 50}
  last = linear(TRAIN, TEST, schedule='cosine', **options)[0]
  assert last.params['schedule'] == 'cosine' and not {'milestones', 'factor'} & set(last.params)
  last = linear(TRAIN, TEST, factor=0.5, **options)[0]
  assert (last.params['factor'], last.params['milestones']) == (0.5, (20, 40, 60, 80))


def test_features_of_length_one():
  scaled = (
    s._replace(h=s.h * np.linspace(1, 9, len(s.h), dtype=np.float32)[:, None])
    for s in (TRAIN, TEST)
  )
  raw, same = (
    linear(train, test, normalize='l2')[0].value for train, test in ((TRAIN, TEST), tuple(scaled))
  )
  assert raw == pytest.approx(same, abs=0.011)
  unit = [s._replace(h=s.h / np.linalg.norm(s.h, axis=1, keepdims=True)) for s in (TRAIN, TEST)]
  assert raw == pytest.approx(linear(*unit, standardize=False)[0].value, abs=0.011)


def test_augmented_copies():
  """Two equal copies are as one; of others the second matters."""
  options = {'epochs': 2, 'schedule': 'constant', 'batch_size': 20, 'standardize': True}
  options = {'preset': 'sogclr', 'base_lr': 1.0, **options}
  one = linear(TRAIN, TEST, **options)[0]
  same, other = (
    linear(TRAIN._replace(h=np.stack(copies)), TEST, **options)[0]
    for copies in ((TRAIN.h, TRAIN.h), (TRAIN.h, TRAIN.h[::-1]))
  )
  assert one.value == same.value > other.value + 0.05
  with pytest.raises(UserError, match='copies are for the epochs of SGD'):
    linear(TRAIN._replace(h=np.stack([TRAIN.h] * 2)), TEST)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'train': TRAIN._replace(label=None)}, 'needs labels'),
    ({'test': TEST._replace(label=None)}, 'needs labels'),
    ({'test': TEST._replace(label=TEST.label + 1)}, 'class 14 of the test set'),
    ({'label_fraction': 0.01}, '2 labels are too few for 4 classes'),
    ({'label_fraction': 1.5}, 'label_fraction=1.5 is not allowed'),
    ({'label_fraction': 0.02, 'l2': [1.0, 2.0]}, '4 labels are too few to choose'),
    ({'solver': 'newton'}, "solver='newton' is not allowed: give one of 'lbfgs', 'sgd', or None"),
    ({'base_lr': 0.1}, "'lbfgs' has no option 'base_lr'"),
    ({'preset': 'simclrr'}, "preset='simclrr' is not allowed: did you mean 'simclr'"),
    ({'preset': 'sogclr', 'solver': 'lbfgs'}, "preset 'sogclr' is one of SGD"),
    ({'preset': 'sogclr', 'l2': 1.0}, "'sgd' has no option 'l2'"),
    ({'preset': 'sogclr', 'milestones': (2,)}, 'has no effect unless schedule=step'),
    (
      {'preset': 'solo_learn', 'milestones': (2, 9), 'epochs': 9},
      'milestones: 9 has no effect in a run of 9 epochs',
    ),
    ({'preset': 'robustness', 'schedule': 'cosine', 'factor': 0.5}, 'has no effect unless'),
    ({'preset': 'sogclr', 'schedule': 'linear'}, "schedule='linear' is not allowed"),
    ({'preset': 'sogclr', 'scaling': 'sqrt'}, "scaling='sqrt' is not allowed"),
    ({'preset': 'sogclr', 'epochs': 0}, 'epochs=0 is not allowed'),
    ({'normalize': 'L2'}, "normalize='L2' is not allowed"),
    ({'normalize': 'l2', 'standardize': True}, 'normalize or standardize, not both'),
    ({'held_out': 1.0, 'l2': [1.0, 2.0]}, r'held_out=1\.0 is not allowed'),
    ({'held_out': 0.2}, 'held_out has no effect'),
    ({'draws': 0}, 'draws=0 is not allowed'),
  ],
)
def test_bad_input(change, message):
  with pytest.raises(UserError, match=message):
    linear(**{'train': TRAIN, 'test': TEST, **change})
