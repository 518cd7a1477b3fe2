"""Options that no protocol can use are refused before anything is computed."""

import types

import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation.probing.sets import Sets


def source(num_examples=200, num_classes=4):
  return types.SimpleNamespace(
    name='toy',
    split='train',
    num_examples=num_examples,
    num_classes=num_classes,
    class_names=None,
    image_shape=(8, 8, 1),
    labels=lambda: np.arange(num_examples) % num_classes,
  )


SETS = Sets(source(), source(60))  # type: ignore


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('knn', {'k': 0}, 'knn: k=0 must be at least 1'),
    ('knn', {'block': 0}, 'block=0 must be at least 1'),
    ('knn', {'temperature': 0.0}, 'must be positive'),
    ('knn', {'temperature': float('nan')}, 'must be finite'),
    ('linear', {'label_fraction': ('',)}, 'label_fraction is empty'),
    ('linear', {'label_fraction': ('0.1,nan',)}, '0.1,nan is no number'),
    ('linear', {'label_fraction': (0.1, float('nan'))}, 'nan must be finite'),
    ('linear', {'label_fraction': (0.1, 0.01)}, 'is 2 labels'),
    ('linear', {'l2': ('',)}, 'l2 is empty'),
    ('linear', {'l2': (1.0, -1.0)}, 'l2=-1.0 must be at least 0'),
    ('linear', {'max_iter': 0}, 'max_iter=0'),
    ('linear', {'l2': (0.1, 1.0), 'label_fraction': (1.0, 0.02)}, '4 labels are too few to choose'),
    ('linear', {'seed': -1}, 'seed=-1 must be at least 0'),
    ('linear', {'solver': 'sgd', 'base_lr': (float('inf'),)}, 'base_lr=inf must be finite'),
    ('linear', {'solver': 'sgd', 'momentum': 1.0}, 'momentum=1.0 must be below 1'),
    ('linear', {'solver': 'sgd', 'schedule': 'step', 'milestones': ('a',)}, 'a is no number'),
    ('linear_augmented', {'augmentations': 0}, 'augmentations=0'),
    ('linear_augmented', {'policy': 'crop_flap'}, "did you mean 'crop_flip'"),
    ('linear_augmented', {'preset': ''}, 'preset is empty'),
    ('few_label', {'per_class': ('x',)}, 'per_class=x is no number'),
    ('few_label', {'per_class': (1.5,)}, 'must be a whole number'),
    ('few_label', {'per_class': ('',), 'label_fraction': ('',)}, 'both empty'),
    ('few_label', {'seed': -1}, 'seed=-1'),
    ('few_label', {'label_fraction': (0.5,), 'l2': (0.1, 1.0)}, '4 labels are too few to choose'),
    ('finetune', {'draw': ('x',)}, 'draw=x is no number'),
    ('finetune', {'backbone_lr': ('nan',)}, 'backbone_lr=nan'),
    ('finetune', {'schedule': 'step', 'milestones': (1,), 'factor': float('nan')}, 'factor=nan'),
    ('finetune', {'per_class': (1, 1000)}, 'at most 50'),
    ('finetune', {'per_class': (4,), 'held_out': 0.9}, 'too few'),
    ('transfer', {'to': 'digits', 'k': 0}, 'k=0'),
    ('robustness', {'attack': 'pgd_l2', 'epsilons': ('x',)}, 'epsilons=x is no number'),
    ('robustness', {'attack': 'corruptions', 'severities': ()}, 'severities is empty'),
  ],
)
def test_nonsense(name, options, message):
  with pytest.raises(UserError, match=message) as refused:
    protocols.check(SETS, name, options, ['trained'])
  assert '\n' not in str(refused.value)


@pytest.mark.parametrize('name', protocols.PROTOCOLS)
def test_defaults_pass(name):
  options = {'attack': ('pgd_l2', 'plb_l2')} if name == 'robustness' else {}
  options |= {'to': 'digits'} if name == 'transfer' else {}
  options |= {'label_fraction': (0.5,)} if name == 'few_label' else {}  # 1 % is 2 labels
  protocols.check(SETS, name, options, ['trained'])


def test_only_fractions_or_only_numbers_of_labels():
  """--params.per_class= on the command line."""
  for options in (
    {'per_class': ('',), 'label_fraction': (0.5,)},
    {'label_fraction': ('',), 'per_class': (3,)},
  ):
    protocols.check(SETS, 'few_label', options, ['trained'])


@pytest.mark.parametrize('name', ['knn', 'linear', 'few_label', 'finetune'])
def test_other_classes_in_the_test_set(name):
  sets = Sets(source(), source(num_classes=5))  # type: ignore
  with pytest.raises(UserError, match='the 5 classes of toy train are not the 4'):
    protocols.check(sets, name, {'label_fraction': 0.5} if name == 'few_label' else {}, ['trained'])
