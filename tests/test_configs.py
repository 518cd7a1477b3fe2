"""The config files: every argument builds a run with the numbers of its table, without data."""

import functools
import re

import jax
import numpy as np
import pytest

from clr_jax import augment, experiment
from clr_jax import config as configs
from clr_jax.data import Source
from clr_jax.evaluate.features import Features
from clr_jax.evaluate.linear import linear
from clr_jax.evaluate.sets import evaluation_sets
from clr_jax.types import UserError

SHAPES = {  # image shape, training images, classes
  'cifar10': ((32, 32, 3), 50_000, 10),
  'cifar100': ((32, 32, 3), 50_000, 100),
  'fashion_mnist': ((28, 28, 1), 60_000, 10),
  'digits': ((16, 16, 1), 1_437, 10),
  'stl10': ((64, 64, 3), 100_000, 10),
  'folder:tiny-imagenet-200': ((64, 64, 3), 100_000, 200),
  'folder:imagenet100': ((256, 256, 3), 126_689, 100),
  'imagenet2012': ((256, 256, 3), 1_281_167, 1000),
}
TRAINING = ('train', 'unlabelled')  # splits of that many images; the others have 1000
FILES = configs.packaged()
PAPERS = (
  'feature_transformation',
  'margins',
  'report_moco',
  'report_sogclr',
  'thesis_selfsup',
  'thesis_supervised',
)

# (peak learning rate, total steps) by pattern of the spec; the first that matches counts.
EXPECTED = {
  r'report_sogclr:': (0.25, 781 * 400),
  r'report_moco:': (0.25, 781 * 400),
  r'feature_transformation:cifar10': (0.06, 97 * 200),
  r'feature_transformation:imagenet-': (0.03, 5004 * 200),
  r'feature_transformation:.*-(moco|infomin)': (0.03, 494 * 200),
  r'feature_transformation:.*-simclr': (0.3, 494 * 200),
  r'feature_transformation:.*-swav': (0.6, 494 * 200),
  r'feature_transformation:.*-simsiam': (0.05, 494 * 200),
  r'margins:imagenet-moco_v3': (9.6, 312 * 100),
  r'margins:imagenet-simclr': (4.8, 312 * 100),
  r'margins:cifar': (0.06, 195 * 200),
  r'margins:': (0.06, 390 * 200),
  r'thesis_selfsup:imagenet100-(tcl|byol)': (0.5, 494 * 400),
  r'thesis_selfsup:imagenet100-swav': (0.6, 494 * 400),
  r'thesis_selfsup:imagenet100-simsiam': (0.5, 494 * 400),
  r'thesis_selfsup:imagenet100-w_mse': (0.002, 494 * 400),
  r'thesis_selfsup:imagenet100-': (0.3, 494 * 400),
  r'thesis_selfsup:.*-(tcl|simsiam)': (0.5, 195 * 1000),
  r'thesis_selfsup:.*-simclr': (0.4, 195 * 1000),
  r'thesis_selfsup:.*-byol': (1.0, 195 * 1000),
  r'thesis_selfsup:.*-ressl': (0.05, 195 * 1000),
  r'thesis_selfsup:.*-swav': (0.6, 195 * 1000),
  r'thesis_selfsup:.*-w_mse': (0.003, 195 * 1000),
  r'thesis_selfsup:': (0.3, 195 * 1000),
  r'thesis_supervised:cifar.*-supervised': (0.8, 48 * 150),
  r'thesis_supervised:fashion_mnist-supervised': (0.8, 58 * 150),
  r'thesis_supervised:.*-batch32$': (0.008, 3125 * 100),
  r'thesis_supervised:.*-batch64$': (0.009, 1562 * 100),
  r'thesis_supervised:.*-batch128$': (0.1, 781 * 100),
  r'thesis_supervised:.*-batch512$': (0.5, 195 * 100),
  r'thesis_supervised:.*-batch1024$': (1.0, 97 * 100),
  r'thesis_supervised:.*-simaugment$': (0.1, 781 * 200),
  r'thesis_supervised:imagenet100-supervised': (0.8, 123 * 150),
  r'thesis_supervised:imagenet100-.*-resnet34': (0.1, 1979 * 100),
  r'thesis_supervised:imagenet100-supcon': (0.2, 989 * 100),
  r'thesis_supervised:imagenet100-tcl': (0.3, 989 * 100),
  r'thesis_supervised:cifar100': (0.2, 390 * 100),  # batch256, too
  r'thesis_supervised:cifar10-': (0.1, 781 * 100),
  r'thesis_supervised:fashion_mnist': (0.09, 937 * 100),
  r'quickstart': (0.05, 11 * 25),
  r'fashion_mnist': (0.1, 234 * 10),
}
# The full networks' backbones, in parameters: torchvision's without classifier and with a 3x3 stem.
BACKBONES = {'resnet50': 23_500_352, 'resnet34': 21_276_992, 'resnet18': 11_168_832}
STEMS = {'imagenet': (49 - 9) * 3 * 64}  # more


class Fake(Source):
  """Shapes without images."""

  def __init__(self, name, split):
    shape, size, classes = SHAPES[name]
    rows = np.arange(size if split in TRAINING else 1000)
    super().__init__(
      name=name,
      split=split,
      rows=rows,
      image_shape=shape,
      num_classes=None if split == 'unlabelled' else classes,
      class_names=None,
    )

  def _read(self, rows):
    raise AssertionError('nothing here needs an image')


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
  monkeypatch.setattr(experiment.data, 'load_source', lambda name, *, split, **_: Fake(name, split))


@functools.cache
def arguments(file: str) -> list[str]:
  """What the message for an unknown argument lists; [] for a config without argument."""
  with pytest.raises(UserError) as error:
    configs.load(f'{file}:no-such-argument')
  message = str(error.value)
  if 'takes no argument' in message:
    return []
  return message.partition('choose one of ')[2].split(', ')


SPECS = [f'{f}:{a}' if a else f for f in FILES for a in arguments(f) or ['']]

# Of the files with many rows, those that differ in more than numbers; the others are slow.
SAMPLE = {
  'feature_transformation': (
    'imagenet100-moco_v1-both',
    'imagenet100-simclr-both-dim',
    'imagenet100-infomin',
    'imagenet100-swav',
    'imagenet100-simsiam-pos',
    'imagenet-moco_v2-un_mix',
    'cifar10-moco_v2-mochi',
  ),
  'margins': (
    'cifar10-moco_v3-margin',
    'stl10-simclr-curvature',
    'tiny_imagenet-byol-curvature',
    'imagenet-moco_v3-curvature',
    'imagenet-simclr',
  ),
  'report_moco': ('cifar10-moco', 'cifar100-real-as-published'),
  'thesis_selfsup': ('cifar10-tcl', 'cifar100-simclr', 'imagenet100-byol', 'imagenet100-swav'),
}


def sampled(specs):
  """The specs as parameters, those that SAMPLE leaves out marked as slow."""

  def mark(spec):
    file, _, argument = spec.partition(':')
    fast = argument in SAMPLE.get(file, (argument,))
    return spec if fast else pytest.param(spec, marks=pytest.mark.slow)

  return [mark(spec) for spec in specs]


def tiny(config):
  """The same run with a network that is traced quickly; all ResNets have the same options."""
  config.model.name, config.model.width = 'resnet_tiny', 8
  return config


def abstract_step(parts: experiment.Experiment):
  """The shapes before a train step, after it, and of its metrics."""
  state = parts.abstract_state()
  batch = jax.eval_shape(lambda: experiment.example_batch(parts.source, parts.info.batch_size))
  return state, *jax.eval_shape(parts.step_fn, state, batch)


def check_step(parts: experiment.Experiment):
  before, after, metrics = abstract_step(parts)
  shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), state) for state in (before, after)]
  assert shapes[0] == shapes[1]
  assert metrics['loss'].shape == ()
  assert ('probe_top1' in metrics) == (parts.info.num_classes is not None)
  return before


def test_the_papers_have_configs():
  assert set(PAPERS) | {'quickstart', 'fashion_mnist'} <= set(FILES)
  for file in PAPERS:
    assert len(arguments(file)) >= 4


@pytest.mark.parametrize('file', FILES)
def test_every_argument_loads(file):
  for argument in arguments(file):
    config = configs.load(f'{file}:{argument}')
    assert augment.get(**configs.to_dict(config.augment)).num_views == config.augment.num_views


@pytest.mark.parametrize('spec', sampled(SPECS))
def test_numbers_of_the_table(spec):
  parts = experiment.make(tiny(configs.load(spec)))
  peak, total_steps = next(v for k, v in EXPECTED.items() if re.match(k, spec))
  assert parts.info.total_steps == total_steps
  rates = np.asarray(parts.learning_rate(np.arange(total_steps)))
  # SupContrast's warm-up ends on the cosine, a little below the nominal rate.
  # PyContrast's cosine does not start at its peak either.
  inexact = spec.endswith('-supervised') or spec.startswith('feature_transformation')
  assert rates.max() == pytest.approx(peak, rel=0.02 if inexact else 1e-5)
  assert rates[-1] < 0.01 * peak


def full_mark(spec):
  default = {'report_sogclr:cifar10', 'thesis_supervised:cifar10-tcl', 'thesis_selfsup:cifar10-tcl'}
  return spec if spec in default else pytest.param(spec, marks=pytest.mark.slow)


@pytest.mark.parametrize('spec', [full_mark(s) for s in SPECS if s.partition(':')[0] in PAPERS])
def test_a_step_of_the_full_network(spec):
  config = configs.load(spec)
  state = check_step(experiment.make(config))
  count = sum(x.size for x in jax.tree.leaves(state.params['backbone']))
  channels = SHAPES[config.data.name][0][-1]
  stem = STEMS.get(config.model.stem, 0)
  assert count == BACKBONES[config.model.name] - (3 - channels) * 9 * 64 + stem


# CIFAR-100 and the other batch sizes differ from these in numbers only.
STRUCTURES = [
  s
  for s in SPECS
  if 'cifar100' not in s or s.endswith('-simaugment') or s.partition(':')[0] in SAMPLE
]


@pytest.mark.parametrize('spec', sampled(STRUCTURES))
def test_a_step(spec):
  check_step(experiment.make(tiny(configs.load(spec))))


def docstring(file: str) -> str:
  return configs.resolve(file)[0].read_text().split('"""')[1]


def commanded(file: str) -> list[str]:
  return re.findall(r'--config=([^\s`]+)', docstring(file))


@pytest.mark.parametrize('file', FILES)
def test_commands_of_the_docstring(file):
  path, _ = configs.resolve(file)
  specs = commanded(file)
  assert specs
  for spec in specs:
    assert configs.resolve(spec)[0] == path
    configs.load(spec)
  keys = re.findall(r'--config\.([\w.]+)=', docstring(file))
  configs.check_keys(configs.load(specs[0]), keys, 'config')


@pytest.mark.parametrize('file', FILES)
def test_without_an_argument_the_config_of_the_docstring(file):
  assert configs.load(file) == configs.load(commanded(file)[0])


@pytest.mark.parametrize('file', PAPERS)
def test_the_docstring_explains_every_argument(file):
  text = docstring(file).replace('CIFAR-100', 'cifar100')
  for argument in arguments(file):
    dataset, _, rest = argument.partition('-')
    rest = re.sub(r'-batch\d+$', '', rest)  # a range there
    for part in [dataset, rest] if file == 'report_sogclr' else [dataset, *rest.split('-')]:
      assert part in text


def test_sogclr_variants_change_one_thing():
  base = configs.to_dict(configs.load('report_sogclr:cifar10'))
  changed = {}
  for argument in arguments('report_sogclr'):
    if argument.startswith('cifar10-'):
      other = configs.to_dict(configs.load(f'report_sogclr:{argument}'))
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
  tcl = configs.load(f'thesis_supervised:cifar100-tcl{variant}')
  supcon = configs.load(f'thesis_supervised:cifar100-supcon{variant}')
  assert (tcl.method.k1, tcl.method.k2) == (k1, k2)
  assert tcl.batch_size * tcl.augment.num_views == rows
  for part in ('augment', 'optimizer', 'schedule', 'batch_size', 'num_epochs', 'model', 'eval'):
    assert tcl[part] == supcon[part]


def test_triplets_without_labels():
  config = configs.load('thesis_selfsup:cifar10-tcl')
  parts = experiment.make(tiny(config))
  assert parts.info.num_views == 3
  assert not config.method.supervised
  # Only the labels tell a supervised run from this one, and the probe needs them in both.
  assert configs.load('thesis_supervised:cifar10-tcl').method.supervised


@pytest.mark.parametrize(
  ('file', 'epochs', 'peak'),
  [
    ('report_sogclr', 90, 0.4),
    ('report_moco', 90, 0.4),
    ('thesis_supervised', 50, 0.5),
    ('thesis_selfsup', 100, 0.5),
    ('feature_transformation', 60, 30),
    ('margins', 100, 1),
  ],
)
def test_linear_protocol(file, epochs, peak):
  options = configs.to_dict(configs.load(file).eval.protocols.linear)
  assert options['epochs'] == epochs
  assert options['base_lr'] * options['batch_size'] / 256 == pytest.approx(peak)
  options['epochs'] = 1
  rng = np.random.default_rng(0)
  train, test = (Features(rng.normal(size=(8, 4)), np.arange(8) % 2) for _ in range(2))
  results = linear(train, test, **options)
  assert [r.params['selection'] for r in results] == ['last', 'best_on_test']


def plugins_on(spec):
  """{plug-in: {option: value}} of what differs from a config without plug-ins."""
  neutral = configs.to_dict(configs.load('quickstart').plugins)
  given = configs.to_dict(configs.load(spec).plugins)
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
    }.items():
      assert on(network + variant) == {'feature_transformation': scopes}
  mochi = {'num_mixed': 1024, 'num_query_mixed': 128}
  assert on('imagenet-moco_v2-mochi') == {'mochi': mochi}
  assert on('imagenet-moco_v2-un_mix') == {'un_mix': {'enabled': True}}
  config = configs.load('feature_transformation:imagenet100-moco_v1-both')
  transformation = config.plugins.feature_transformation
  assert (transformation.positive_alpha, transformation.negative_alpha) == (2.0, 1.6)


def test_mocos_of_feature_transformation():
  moco = {
    row: configs.load(f'feature_transformation:{row}').method
    for row in ('imagenet100-moco_v1', 'imagenet100-moco_v2', 'imagenet-moco_v1', 'cifar10-moco_v1')
  }
  assert [m.temperature for m in moco.values()] == [0.07, 0.2, 0.07, 0.1]
  assert [m.momentum for m in moco.values()] == [0.99, 0.99, 0.999, 0.99]
  assert [m.projector for m in moco.values()] == ['linear', 'mocov2', 'linear', 'linear']
  assert [m.queue_length for m in moco.values()] == [65536, 65536, 65536, 4096]


@pytest.mark.parametrize('method', ['moco_v3', 'simclr', 'byol'])
def test_margins_of_the_docstring(method):
  datasets = ('cifar10', 'cifar100', 'stl10', 'tiny_imagenet')
  for line in docstring('margins').splitlines():
    name, *cells = re.split(r'  +', line.strip())
    if len(cells) < 4 or name.partition('-')[0] != method:
      continue
    variant = name.partition('-')[2]
    numbers = re.findall(r'(?<![\w.])\d*\.?\d+(?!\w)', ' '.join(cells))
    each = len(numbers) // 4  # the accuracy and one or two numbers of the variant
    for i, dataset in enumerate(datasets):
      found = plugins_on(f'margins:{dataset}-{name}')
      expected = [float(n) for n in numbers[i * each + 1 : (i + 1) * each]]
      if variant == 'margin':
        given = configs.load(f'margins:{dataset}-{name}').plugins.margin
        assert [given.angular, given.subtractive] == expected
        assert set(found) == {'margin'}
      elif variant:
        assert list(found['gradient_scaling'].values()) == expected
        assert set(found) == {'gradient_scaling'}
      else:
        assert not found
        assert not expected


def test_margins_have_a_strong_and_a_weak_view():
  config = configs.load('margins:stl10-moco_v3')
  views = augment.get(**configs.to_dict(config.augment))
  grey = np.zeros((4, 64, 64, 3), np.float32) + np.asarray([0.2, 0.5, 0.7], np.float32)
  made = np.asarray(views(jax.random.key(0), grey)['global'])
  assert made.shape == (4, 2, 64, 64, 3)
  np.testing.assert_allclose(made[:, 1], grey, atol=1e-5)  # only crop and flip
  assert np.abs(made[:, 0] - grey).max() > 0.02
  assert {config.method[k] for k in ('projector', 'predictor')} == {'byol'}
  assert (config.method.hidden_dim, config.method.out_dim) == (2048, 128)


def test_stl10_is_trained_on_unlabelled_images_and_evaluated_on_labelled_ones():
  parts = experiment.make(tiny(configs.load('margins:stl10-simclr')))
  sets = evaluation_sets(parts)
  assert parts.info.num_classes is None
  assert sets.labeled
  assert sets.names == 'stl10 train, test'


def test_moco_of_the_report_clean_and_as_published():
  base = configs.to_dict(configs.load('report_sogclr:cifar100'))
  for name in ('moco', 'real'):
    for variant, defects in (
      ('', (False, 'mean', 'per_index')),
      ('-as-published', (True, 'sum', 'none')),
    ):
      config = configs.to_dict(configs.load(f'report_moco:cifar100-{name}{variant}'))
      method = config['method']
      assert {k for k in base if base[k] != config[k]} == {'method'}
      assert tuple(method[k] for k in ('temperature_twice', 'combine', 'first_visit')) == defects
      assert method.get('as_published', bool(variant)) == bool(variant)
      assert (method['temperature'], method['gamma'], method['queue_length']) == (0.3, 0.9, 65536)
