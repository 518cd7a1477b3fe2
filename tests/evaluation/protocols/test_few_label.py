import types

import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.protocols import few_label as few
from clr_jax.evaluation.protocols.linear import linear
from clr_jax.rundir.results import Measurement
from tests.evaluation.protocols.test_linear import TEST, TRAIN

LABELS = types.SimpleNamespace(
  labels=lambda: TRAIN.label, num_examples=200, num_classes=4, class_names=None
)
SETS = Sets(LABELS, LABELS)  # type: ignore
FEW = {'label_fraction': (0.05, 1.0), 'per_class': (2,), 'draws': 3}


def subject(kind):
  return types.SimpleNamespace(
    features=(TRAIN, TEST), sets=SETS, kind=kind, of_kind=subject, is_pretrained=kind == 'trained'
  )


def measure(kind='trained', **options):
  return list(few.measure(subject(kind), **{**FEW, **options}))  # type: ignore


@pytest.mark.slow
def test_the_classifier_is_that_of_linear():
  got = measure()
  amounts = [(m.params.get('label_fraction'), m.params.get('per_class')) for m in got]
  assert amounts == [(0.05, None)] * 3 + [(1.0, None)] + [(None, 2)] * 3  # all labels: one draw
  assert [m.params['num_labels'] for m in got] == [10] * 3 + [200] + [8] * 3
  assert [m.params['draw'] for m in got] == [0, 1, 2, 0, 0, 1, 2]
  assert {m.protocol for m in got} == {'few_label'}
  same = linear(TRAIN, TEST, label_fraction=(0.05, 1.0), draws=3)
  assert [m.value for m in got[:4]] == [m.value for m in same]
  assert len({m.value for m in got[:3]}) > 1 and got[3].value > max(m.value for m in got[4:])


@pytest.mark.slow
def test_any_preset_and_unbalanced_labels():
  got = measure(preset='robustness', epochs=2, balanced=False, kind='untrained')
  assert len(got) == 2 * 9 and {m.params['preset'] for m in got} == {'robustness'}
  assert {m.params['balanced'] for m in got} == {False}
  assert {m.features for m in got} == {'untrained'}
  assert [m.params['num_labels'] for m in got[-6:]] == [8] * 6


@pytest.mark.slow
def test_the_baseline_has_the_same_labels(monkeypatch):
  asked = []

  def finetune(subject, **options):
    asked.append({'kind': subject.kind, **options})
    used = {'preset': options['preset'], 'label_fraction': 0.5, 'per_class': 7, 'num_labels': 9}
    return [Measurement('top1', 0.5, 'finetune', {**used, 'draw': options['draw']}, 'untrained', 0)]

  monkeypatch.setattr(few.finetune, 'measure', finetune)
  got = measure(baseline='small_supervised', seed=4)[7:]
  assert [(a.get('label_fraction'), a.get('per_class'), a['draw']) for a in asked] == [
    *((0.05, None, draw) for draw in range(3)),
    *((1.0, None, draw) for draw in range(3)),
    *((None, 2, draw) for draw in range(3)),
  ]
  assert {(a['kind'], a['seed'], a['balanced']) for a in asked} == {('untrained', 4, True)}
  assert {(m.protocol, m.features) for m in got} == {('few_label', 'untrained')}
  first, last = got[0].params, got[-1].params
  assert first['label_fraction'] == 0.05 and 'per_class' not in first and 'preset' not in first
  assert last['per_class'] == 2 and 'label_fraction' not in last
  assert first['baseline'] == 'small_supervised' and first['num_labels'] == 9
  assert len(measure(baseline='small_supervised', kind='untrained')) == 7  # once is enough


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'label_fraction': (0.01,)}, '2 labels are too few for 4 classes'),
    ({'label_fraction': (0.01,), 'balanced': False}, '2 labels are not between'),
    ({'label_fraction': (2.0,)}, r'label_fraction=\(2.0,\) is not allowed'),
    ({'per_class': (51,)}, 'at most 50'),
    ({'per_class': (), 'label_fraction': ()}, 'both empty'),
    ({'draws': 0}, 'draws=0 is not allowed'),
    ({'preset': 'tlc'}, "did you mean 'tcl'"),
    ({'solver': 'sgd', 'l2': 1.0}, "'sgd' has no option 'l2'"),
    ({'momentum': 0.5}, "'lbfgs' has no option 'momentum'"),
    ({'baseline': 'supervised'}, "baseline='supervised' is not allowed"),
  ],
)
def test_bad_input_is_refused_before_any_work(options, message):
  with pytest.raises(UserError, match=message) as refused:
    protocols.check(SETS, 'few_label', {**FEW, **options}, ['trained'])
  assert '\n' not in str(refused.value)
  protocols.check(SETS, 'few_label', FEW, ['trained'])
