"""The rows of the papers' configs: what tells one argument of a file from another."""

import re

import jax
import numpy as np
import pytest

from clr_jax import augment
from clr_jax.core.config_tree import to_dict
from clr_jax.evaluation.probing.features import Features
from clr_jax.evaluation.probing.sets import evaluation_sets
from clr_jax.evaluation.protocols.linear import linear
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from tests.experiment.config_files import arguments, docstring, no_data, tiny  # noqa: F401


def test_sogclr_variants_change_one_thing():
  base = to_dict(load('sogclr:cifar10'))
  changed = {}
  for argument in arguments('sogclr'):
    if argument.startswith('cifar10-'):
      other = to_dict(load(f'sogclr:{argument}'))
      differing = [k for k in base if base[k] != other[k]]
      assert len(differing) == 1
      changed[argument.removeprefix('cifar10-')] = other[differing[0]]
  assert changed['noise-variance9e-4']['noise_variance'] == pytest.approx(0.03**2)
  assert changed['noise-variance2']['noise_variance'] == changed['noise-std2']['noise_sigma']
  assert changed['noise-std8']['noise_sigma'] == pytest.approx(8 / 255)
  assert changed['blur-always']['blur_p'] == 1.0
  assert changed['blur']['blur_p'] == 0.5
  assert changed['blur']['blur_kernel'] == 9
  assert changed['salt-pepper']['salt_pepper'] == 0.05
  assert changed['noise-sam'] == {**changed['noise-sam'], 'name': 'noise_sam', 'eps': 1e-5}
  assert changed['sam']['name'] == 'sam'
  assert not changed['moco-one-way']['symmetric']
  assert changed['rate-over-4']['learning_rate'] == 0.25
  assert changed['40k']['protocols']['linear']['held_out'] == 0.2


@pytest.mark.parametrize(
  ('variant', 'rows', 'k1', 'k2'),
  [
    ('', 256, 4000, 1),
    ('-batch32', 32, 5000, 1),
    ('-batch64', 64, 7500, 1),
    ('-batch128', 128, 5000, 1),
    ('-batch256', 256, 4000, 1),
    ('-batch512', 512, 4000, 1),
    ('-batch1024', 1024, 4000, 1),
    ('-simaugment', 128, 5000, 1.2),
  ],
)
def test_tcl_weights_and_batches_of_the_thesis(variant, rows, k1, k2):
  tcl = load(f'tcl_supervised:cifar100-tcl{variant}')
  supcon = load(f'tcl_supervised:cifar100-supcon{variant}')
  assert (tcl.method.k1, tcl.method.k2) == (k1, k2)
  assert tcl.batch_size * tcl.augment.num_views == rows
  for part in ('augment', 'optimizer', 'schedule', 'batch_size', 'num_epochs', 'model', 'eval'):
    assert tcl[part] == supcon[part]


def test_triplets_without_labels():
  config = load('tcl_selfsup:cifar10-tcl')
  experiment = build_experiment(tiny(config))
  assert experiment.info.num_views == 3
  assert not config.method.supervised
  # Only the labels tell a supervised run from this one, and the probe needs them in both.
  assert load('tcl_supervised:cifar10-tcl').method.supervised


@pytest.mark.parametrize(
  ('file', 'epochs', 'peak'),
  [
    ('sogclr', 90, 0.4),
    ('tcl_supervised', 50, 0.5),
    ('tcl_selfsup', 100, 0.5),
    ('feature_transformation', 60, 30),
    ('margins', 100, 1),
  ],
)
def test_linear_protocol(file, epochs, peak):
  options = to_dict(load(file).eval.protocols.linear)
  assert options['epochs'] == epochs
  (base_lr,) = options['base_lr']
  assert base_lr * options['batch_size'] / 256 == pytest.approx(peak)
  options['epochs'] = 1
  rng = np.random.default_rng(0)
  train, test = (Features(rng.normal(size=(8, 4)), np.arange(8) % 2) for _ in range(2))
  results = linear(train, test, **options)
  assert [r.params['selection'] for r in results] == ['last', 'best_on_test']


def plugins_on(spec):
  """{plug-in: {option: value}} of what differs from a config without plug-ins."""
  neutral = to_dict(load('quickstart').plugins)
  given = to_dict(load(spec).plugins)
  changed = {
    name: {k: v for k, v in options.items() if v != neutral[name][k] and k != 'start_epoch'}
    for name, options in given.items()
  }
  return {name: options for name, options in changed.items() if options}


def test_variants_of_feature_transformation():
  def on(argument):
    return plugins_on(f'feature_transformation:{argument}')

  for network in ('imagenet100-moco_v1', 'imagenet100-moco_v2', 'imagenet100-simclr'):
    assert on(network) == {}
    for variant, scopes in {
      '-pos': {'positive': 'batch'},
      '-neg': {'negative': 'batch'},
      '-both': {'positive': 'batch', 'negative': 'batch'},
      '-both-dim': {'positive': 'dim', 'negative': 'dim'},
      '-both-vector': {'positive': 'vector', 'negative': 'vector'},
    }.items():
      assert on(network + variant) == {'feature_transformation': scopes}
  mochi = {'num_mixed': 1024, 'num_query_mixed': 128}
  assert on('imagenet-moco_v2-mochi') == {'mochi': mochi}
  assert on('imagenet-moco_v2-un_mix') == {'un_mix': {'enabled': True}}
  config = load('feature_transformation:imagenet100-moco_v1-both')
  transformation = config.plugins.feature_transformation
  assert (transformation.positive_alpha, transformation.negative_alpha) == (2.0, 1.6)


def test_mocos_of_feature_transformation():
  moco = {
    row: load(f'feature_transformation:{row}').method
    for row in ('imagenet100-moco_v1', 'imagenet100-moco_v2', 'imagenet-moco_v1', 'cifar10-moco_v1')
  }
  assert [m.temperature for m in moco.values()] == [0.07, 0.2, 0.07, 0.1]
  assert [m.momentum for m in moco.values()] == [0.99, 0.99, 0.999, 0.99]
  assert [m.projector for m in moco.values()] == ['linear', 'mocov2', 'linear', 'linear']
  assert [m.queue_length for m in moco.values()] == [65536, 65536, 65536, 4096]


@pytest.mark.parametrize(('method', 'count'), [('moco_v3', 4), ('simclr', 4), ('byol', 2)])
def test_margins_of_the_docstring(method, count):
  datasets = ('cifar10', 'cifar100', 'stl10', 'tiny_imagenet')
  table = docstring('margins').partition('Table 2')[0]
  rows = [re.split(r'  +', line.strip()) for line in table.splitlines()]
  rows = [row for row in rows if row[0].partition('-')[0] == method]
  assert len(rows) == count
  for name, *cells in rows:
    variant = name.partition('-')[2]
    numbers = re.findall(r'(?<![\w.])\d*\.?\d+(?!\w)', ' '.join(cells))
    each = len(numbers) // 4  # the accuracy and one or two numbers of the variant
    for i, dataset in enumerate(datasets):
      found = plugins_on(f'margins:{dataset}-{name}')
      expected = [float(n) for n in numbers[i * each + 1 : (i + 1) * each]]
      if variant == 'margin':
        given = load(f'margins:{dataset}-{name}').plugins.margin
        assert [given.angular, given.subtractive] == expected
        assert set(found) == {'margin'}
      elif variant:
        names = ('curvature',) if method == 'byol' else ('emphasis', 'curvature')
        given = load(f'margins:{dataset}-{name}').plugins.gradient_scaling
        assert [given[k] for k in names[: len(expected)]] == expected
        assert set(found) == {'gradient_scaling'}
      else:
        assert not found
        assert not expected


def test_heads_and_views_of_margins():
  for method in ('moco_v3', 'simclr', 'byol'):
    config = load(f'margins:tiny_imagenet-{method}')
    heads = ('projector',) if method == 'simclr' else ('projector', 'predictor')
    assert {config.method[k] for k in heads} == {'byol'}
    assert (config.method.hidden_dim, config.method.out_dim) == (2048, 128)
    assert (config.augment.name, config.augment.recipe) == ('ressl', 'solo')
    assert config.augment.crop_scale == (0.2, 1.0)


@pytest.mark.slow
def test_margins_have_a_strong_and_a_weak_view():
  config = load('margins:cifar10-moco_v3')
  strong, weak = augment.make(**to_dict(config.augment)).policies
  color = np.zeros((8, 32, 32, 3), np.float32) + np.asarray([0.2, 0.5, 0.7], np.float32)
  np.testing.assert_allclose(weak(jax.random.key(0), color), color, atol=1e-5)  # crop and flip
  assert np.abs(strong(jax.random.key(0), color) - color).max() > 0.02


def test_stl10_is_trained_on_all_images_without_labels_and_evaluated_on_labeled_ones():
  experiment = build_experiment(tiny(load('margins:stl10-simclr')))
  assert experiment.source.split == 'train+unlabelled'
  sets = evaluation_sets(experiment)
  assert experiment.info.num_classes is None
  assert sets.labeled
  assert sets.names == 'stl10 train, test'


def test_heads_of_simclr_are_solo_learns_and_those_of_tcl_the_thesis():
  for row, sizes in (
    ('cifar10-simclr', (2048, 256)),
    ('cifar10-tcl', (2048, 256)),
    ('imagenet100-simclr', (4096, 512)),
    ('imagenet100-tcl', (4096, 256)),
    ('imagenet100-simclr-text', (4096, 256)),
    ('cifar100-swav-text', (2048, 256)),
    ('cifar10-w_mse-text', (1024, 256)),
  ):
    method = load(f'tcl_selfsup:{row}').method
    assert (method.hidden_dim, method.out_dim) == sizes


def test_the_thesis_as_its_code_is():
  fashion, imagenet = (load(f'tcl_supervised:{d}-tcl') for d in ('fashion_mnist', 'imagenet100'))
  assert (fashion.model.mean, fashion.model.std) == ((0.5,), (0.5,))
  assert (imagenet.model.mean, imagenet.model.std) == ((0.5,) * 3, (0.25,) * 3)
  views = imagenet.augment
  assert (views.name, views.padding, views.policy, views.size) == ('autoaugment', 4, 'tcl', 224)
  for name, images in (('cifar10', 64), ('cifar100', 128), ('cifar100', 16)):
    config = load(f'tcl_supervised:{name}-tcl' + '-batch32' * (images == 16))
    stage = to_dict(config.eval.protocols.linear_augmented)
    assert stage == {'preset': 'tcl_published', 'batch_size': images}
    assert config.batch_size == images
  assert 'own_head' in load('tcl_supervised:cifar10-supervised').eval.protocols
  assert load('tcl_selfsup:imagenet100-moco_v2plus').method.queue_length == 65536
  assert load('tcl_selfsup:imagenet100-moco_v2plus-text').method.queue_length == 32768


def test_classifiers_of_margins_on_imagenet():
  stages = [
    to_dict(load(f'margins:imagenet-{m}').eval.protocols.linear) for m in ('moco_v3', 'simclr')
  ]
  keys = ('batch_size', 'weight_decay', 'init')
  assert [s[k] for s in stages for k in keys] == [1024, (0.0,), 'normal', 4096, (1e-6,), 'zero']
  assert load('margins:cifar10-moco_v3').method.loss_scale == 1.0


def test_swav_of_feature_transformation_has_local_views_and_apexs_larc():
  both = load('feature_transformation:imagenet100-swav-both')
  assert plugins_on('feature_transformation:imagenet100-swav-both') == {
    'feature_transformation': {'positive': 'batch'}
  }
  assert (both.augment.num_local, both.optimizer.form) == (6, 'unclipped')
  assert (both.optimizer.trust_coefficient, both.optimizer.exclude_from_decay) == (0.001, 'none')


def test_moco_of_the_report_clean_and_as_published():
  base = to_dict(load('sogclr:cifar100'))
  for name in ('moco', 'real'):
    for variant, defects in (
      ('', (False, 'mean', 'per_index')),
      ('-as-published', (True, 'sum', 'none')),
    ):
      config = to_dict(load(f'sogclr:cifar100-{name}{variant}'))
      method = config['method']
      assert {k for k in base if base[k] != config[k]} == {'method'}
      assert tuple(method[k] for k in ('temperature_twice', 'combine', 'first_visit')) == defects
      assert method.get('as_published', bool(variant)) == bool(variant)
      assert (method['temperature'], method['gamma'], method['queue_length']) == (0.3, 0.9, 65536)
