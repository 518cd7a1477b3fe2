"""Options that no protocol can use are refused before anything is computed; protocols are found."""

import subprocess
import sys
import types

import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation import protocols as package
from clr_jax.evaluation import registry as protocols
from clr_jax.evaluation.probing.sets import Sets


def source(num_examples=200, num_classes=4, class_names=None):
  return types.SimpleNamespace(
    name='toy',
    split='train',
    num_examples=num_examples,
    num_classes=num_classes,
    class_names=class_names,
    image_shape=(8, 8, 1),
    labels=lambda: np.arange(num_examples) % num_classes,
  )


SETS = Sets(source(), source(60))  # type: ignore


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('knn', {'k': 0}, 'knn: k=0 is not allowed: give a whole number of at least 1 .*, or several'),
    ('knn', {'k': (5, 0)}, 'knn: k=0'),
    ('knn', {'k': ('',)}, 'knn: k is empty'),
    ('knn', {'block': 0}, 'block=0 is not allowed'),
    ('knn', {'temperature': 0.0}, 'temperature=0.0 .*of at least 0.0001'),
    ('knn', {'temperature': float('nan')}, 'temperature=nan'),
    ('knn', {'distance': 'cosin'}, "distance='cosin' is not allowed: did you mean 'cosine'"),
    ('knn', {'weights': 'distance'}, "weights='distance'"),
    ('knn', {'kk': 5}, "knn has no option 'kk': did you mean 'k'"),
    ('linear', {'label_fraction': ('',)}, r'label_fraction=\(\) is not allowed'),
    ('linear', {'label_fraction': ('0.1,nan',)}, r"label_fraction=\('0.1', 'nan'\)"),
    ('linear', {'label_fraction': (0.1, float('nan'))}, r'label_fraction=\(0.1, nan\)'),
    ('linear', {'label_fraction': 2.0}, 'label_fraction=2.0'),
    ('linear', {'label_fraction': (0.1, 0.01)}, 'label_fraction=0.01 is 2 labels'),
    ('linear', {'l2': ('',)}, r'l2=\(\)'),
    (
      'linear',
      {'l2': (1.0, -1.0)},
      r'l2=\(1.0, -1.0\) is not allowed: give a number of',
    ),
    ('linear', {'max_iter': 0}, 'max_iter=0'),
    ('linear', {'l2': (0.1, 1.0), 'label_fraction': (1.0, 0.02)}, '4 labels are too few to choose'),
    ('linear', {'seed': -1}, 'seed=-1'),
    ('linear', {'seed': 2**32}, 'seed=4294967296 .*less than 4294967296'),
    ('linear', {'draws': 0}, 'draws=0'),
    ('linear', {'solver': 'sdg'}, "solver='sdg' is not allowed: did you mean 'sgd'"),
    ('linear', {'epochs': 5}, "linear solver 'lbfgs' has no option 'epochs'"),
    ('linear', {'solver': 'sgd', 'base_lr': (float('inf'),)}, r'base_lr=\(inf,\)'),
    ('linear', {'solver': 'sgd', 'momentum': 1.0}, 'momentum=1.0'),
    ('linear', {'solver': 'sgd', 'factor': 0.5}, 'factor=0.5 has no effect unless .*schedule=step'),
    ('linear', {'preset': 'sogclr', 'factor': 0.5}, 'factor=0.5 has no effect'),
    ('linear', {'solver': 'sgd', 'schedule': 'step', 'milestones': ('a',)}, 'milestones='),
    ('linear_augmented', {'augmentations': 0}, 'augmentations=0'),
    ('linear_augmented', {'policy': 'crop_flap'}, "did you mean 'crop_flip'"),
    ('linear_augmented', {'preset': ''}, "preset='' is not allowed: give one of 'sogclr'"),
    ('linear_augmented', {'preset': 'thesys'}, "preset='thesys'"),
    ('few_label', {'per_class': ('x',)}, r"per_class=\('x',\)"),
    ('few_label', {'per_class': (1.5,)}, 'each a whole number of at least 1'),
    ('few_label', {'per_class': ('',), 'label_fraction': ('',)}, 'both empty'),
    ('few_label', {'seed': -1}, 'seed=-1'),
    ('few_label', {'label_fraction': (0.5,), 'l2': (0.1, 1.0)}, '4 labels are too few to choose'),
    ('finetune', {'draw': ('x',)}, "draw='x'"),
    ('finetune', {'backbone_lr': ('nan',)}, "backbone_lr='nan'"),
    ('finetune', {'schedule': 'step', 'milestones': (1,), 'factor': float('nan')}, 'factor=nan'),
    ('finetune', {'per_class': (1, 1000)}, 'at most 50'),
    ('finetune', {'per_class': (4,), 'held_out': 0.9}, 'too few'),
    ('transfer', {'target': 'digits', 'k': 0, 'protocol': 'knn'}, 'transfer: k=0'),
    (
      'transfer',
      {'target': 'digits', 'k': 5},
      'k has no effect with protocol=linear: .* knn',
    ),
    (
      'transfer',
      {'target': 'digits', 'protocol': ('linear', 'knn'), 'draw': 3},
      'draw has no effect',
    ),
    ('transfer', {'target': 'digits', 'kk': 5}, "unknown option of transfer 'kk'"),
    ('transfer', {'target': 'digits', 'protocol': 'robustness'}, "protocol='robustness'"),
    ('transfer', {}, 'transfer needs the name of one or several'),
    ('robustness', {'attack': 'pgd_l2', 'epsilons': ('x',)}, r"epsilons=\('x',\)"),
    ('robustness', {'attack': 'pgd_l2', 'epsilons': (0.0,)}, r'epsilons=\(0.0,\)'),
    ('robustness', {'attack': 'corruptions', 'severities': ()}, r'severities=\(\)'),
    ('robustness', {'attack': 'pgd_l2,pgd_l3'}, "attack='pgd_l3' is not allowed: did you mean"),
    ('robustnes', {}, "unknown protocol 'robustnes': did you mean 'robustness'"),
  ],
)
def test_nonsense(name, options, message):
  with pytest.raises(UserError, match=message) as refused:
    protocols.check(SETS, name, options, ['trained'])
  assert '\n' not in str(refused.value)


@pytest.mark.parametrize('name', protocols.names())
def test_defaults_pass(name):
  options = {'target': 'digits'} if name == 'transfer' else {}
  options |= {'label_fraction': (0.5,)} if name == 'few_label' else {}  # 1 % is 2 labels
  protocols.check(SETS, name, options, ['trained'])


@pytest.mark.parametrize('name', protocols.names())
def test_options_are_described(name):
  texts = protocols.option_texts(name)
  assert {*protocols.parameters(name)} <= texts.keys()
  assert not [key for key, text in texts.items() if not text or text.startswith('see ')]
  if name == 'transfer':  # also of the protocols that it measures by
    assert texts['k'] == protocols.option_texts('knn')['k']


def test_units_are_the_product_of_several_values():
  assert protocols.units('knn', {}) == [{}]
  assert protocols.units('knn', {'k': 5}) == [{'k': 5}]
  assert protocols.units('knn', {'k': (5, 20), 'block': 7}) == [
    {'k': 5, 'block': 7},
    {'k': 20, 'block': 7},
  ]
  attacks = protocols.units('robustness', {'attack': 'pgd_l2, plb_l0', 'steps': 3})
  assert attacks == [{'attack': 'pgd_l2', 'steps': 3}, {'attack': 'plb_l0', 'steps': 3}]
  assert [u['attack'] for u in protocols.units('robustness', {})] == ['pgd_l2', 'plb_l2']


def test_only_fractions_or_only_numbers_of_labels():
  """--params.per_class= on the command line."""
  for options in (
    {'per_class': ('',), 'label_fraction': (0.5,)},
    {'label_fraction': ('',), 'per_class': (3,)},
  ):
    protocols.check(SETS, 'few_label', options, ['trained'])


@pytest.mark.parametrize('name', ['knn', 'linear', 'few_label', 'finetune'])
def test_other_classes_in_the_test_set(name):
  options = {'label_fraction': 0.5} if name == 'few_label' else {}
  sets = Sets(source(), source(num_classes=5))  # type: ignore
  with pytest.raises(UserError, match='the 5 classes of toy train are not the 4'):
    protocols.check(sets, name, options, ['trained'])
  swapped = Sets(source(class_names='abcd'), source(class_names='abdc'))  # type: ignore
  with pytest.raises(UserError, match='choose splits with the same classes'):
    protocols.check(swapped, name, options, ['trained'])
  protocols.check(Sets(source(), source(num_classes=3)), name, options, ['trained'])  # type: ignore


@pytest.mark.parametrize('name', protocols.names())
def test_pixels_have_no_network(name):
  if protocols.needs_network(name):
    with pytest.raises(UserError, match=f'{name} needs a network'):
      protocols.check(SETS, name, {}, ['trained', 'pixels'])
  else:
    assert name in ('knn', 'linear', 'few_label')


def test_every_option_can_be_a_flag():
  """Its value has a type, so that a flag can be read: several values where several are allowed."""
  knn, linear, finetune, robustness, transfer = (
    protocols.parameters(name) for name in ('knn', 'linear', 'finetune', 'robustness', 'transfer')
  )
  assert knn.k == (200,) and knn.temperature == 0.1
  assert linear.l2 == (1.0,) and linear.label_fraction == (1.0,) and linear.epochs == 90
  assert finetune.backbone_lr == (0.02,) and finetune.draw == (0,)
  assert robustness.attack == ('pgd_l2', 'plb_l2')
  assert {'target', 'protocol', 'train_split', 'l2', 'k', 'backbone_lr', 'epochs'} <= set(transfer)
  finetune.epochs, finetune.per_class = 3, (1, 2)  # were None
  with pytest.raises(TypeError):
    finetune.epochs = 'three'


def test_a_new_file_is_a_protocol(tmp_path, monkeypatch):
  (tmp_path / 'mean_label.py').write_text("""
from typing import Annotated
from annotated_types import Ge
from clr_jax.core.options import SEVERAL

def measure(subject, *, power: Annotated[int, Ge(1), SEVERAL] = 1):
  '''Not called.'''
""")
  monkeypatch.setattr(package, '__path__', [*package.__path__, str(tmp_path)])
  monkeypatch.setattr(package.PROTOCOLS, '_path', package.__path__)
  assert 'mean_label' in protocols.names()
  assert protocols.units('mean_label', {'power': (1, 2)}) == [{'power': 1}, {'power': 2}]
  with pytest.raises(UserError, match='mean_label: power=0'):
    protocols.check(SETS, 'mean_label', {'power': 0}, ['pixels'])


def test_names_are_listed_without_importing_a_protocol():
  code = (
    'import sys; from clr_jax.evaluation.protocols import PROTOCOLS; assert PROTOCOLS.names(); '
    'assert "jax" not in sys.modules; '
    'assert not any(m.startswith("clr_jax.evaluation.protocols.") for m in sys.modules)'
  )
  subprocess.run([sys.executable, '-c', code], check=True, timeout=300)
