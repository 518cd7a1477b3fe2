"""The config files: every argument builds a run with the numbers of its table, without data."""

import re

import jax
import numpy as np
import pytest

from clr_jax import augment, optim
from clr_jax.core.config_tree import leaves, to_dict
from clr_jax.experiment import build
from clr_jax.experiment.build import Experiment, build_experiment, example_batch
from clr_jax.experiment.config_files import load, resolve
from clr_jax.experiment.schema import check_config
from tests.experiment.config_files import (
  FILES,
  PAPERS,
  SHAPES,
  Fake,
  arguments,
  commanded,
  docstring,
  no_data,  # noqa: F401
  tiny,
)

# (peak learning rate, total steps) by pattern of the spec; the first that matches counts.
EXPECTED = {
  r'sogclr:': (0.25, 781 * 400),
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
  r'tcl_selfsup:imagenet100-(tcl|byol)': (0.5, 494 * 400),
  r'tcl_selfsup:imagenet100-swav': (0.6, 494 * 400),
  r'tcl_selfsup:imagenet100-simsiam': (0.5, 494 * 400),
  r'tcl_selfsup:imagenet100-w_mse': (0.002, 494 * 400),
  r'tcl_selfsup:imagenet100-': (0.3, 494 * 400),
  r'tcl_selfsup:.*-(tcl|simsiam)': (0.5, 195 * 1000),
  r'tcl_selfsup:.*-simclr': (0.4, 195 * 1000),
  r'tcl_selfsup:.*-byol': (1.0, 195 * 1000),
  r'tcl_selfsup:.*-ressl': (0.05, 195 * 1000),
  r'tcl_selfsup:.*-swav': (0.6, 195 * 1000),
  r'tcl_selfsup:.*-w_mse': (0.003, 195 * 1000),
  r'tcl_selfsup:': (0.3, 195 * 1000),
  r'tcl_supervised:cifar.*-supervised': (0.8, 48 * 150),
  r'tcl_supervised:fashion_mnist-supervised': (0.8, 58 * 150),
  r'tcl_supervised:.*-batch32$': (0.008, 3125 * 100),
  r'tcl_supervised:.*-batch64$': (0.009, 1562 * 100),
  r'tcl_supervised:.*-batch128$': (0.1, 781 * 100),
  r'tcl_supervised:.*-batch512$': (0.5, 195 * 100),
  r'tcl_supervised:.*-batch1024$': (1.0, 97 * 100),
  r'tcl_supervised:.*-simaugment$': (0.1, 781 * 200),
  r'tcl_supervised:imagenet100-supervised': (0.8, 123 * 150),
  r'tcl_supervised:imagenet100-.*-resnet34': (0.1, 1979 * 100),
  r'tcl_supervised:imagenet100-supcon': (0.2, 989 * 100),
  r'tcl_supervised:imagenet100-tcl': (0.3, 989 * 100),
  r'tcl_supervised:cifar100': (0.2, 390 * 100),  # batch256, too
  r'tcl_supervised:cifar10-': (0.1, 781 * 100),
  r'tcl_supervised:fashion_mnist': (0.09, 937 * 100),
  r'quickstart': (0.05, 11 * 25),
  r'fashion_mnist': (0.1, 234 * 10),
  r'robustness:contrastive': (3e-4, 371 * 100),
  r'robustness:supervised': (0.1, 390 * 200),
  r'robustness:fashion_contrastive': (1e-3, 78 * 5),
  r'robustness:fashion_supervised': (0.1, 78 * 5),
  r'score_study:': (0.06, 78 * 6),
}
# The full networks' backbones, in parameters: torchvision's without classifier and with a 3x3 stem.
BACKBONES = {'resnet50': 23_500_352, 'resnet34': 21_276_992, 'resnet18': 11_168_832}
STEMS = {'imagenet': (49 - 9) * 3 * 64}  # more


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
  'quickstart': ('sogclr', 'byol', 'infomin', 'swav'),
  'sogclr': (
    'cifar10',
    'cifar10-noise-variance9e-4',
    'cifar10-noise-sam',
    'cifar10-moco',
    'cifar100',
    'cifar100-real-as-published',
  ),
  'tcl_selfsup': ('cifar10-tcl', 'cifar100-simclr', 'imagenet100-byol', 'imagenet100-swav'),
  'tcl_supervised': (
    'cifar10-supcon',
    'cifar10-tcl',
    'cifar10-supervised',
    'fashion_mnist-tcl',
    'cifar100-tcl-batch1024',
    'cifar100-tcl-simaugment',
    'imagenet100-tcl',
  ),
}


def sampled(specs):
  """The specs as parameters, those that SAMPLE leaves out marked as slow."""

  def mark(spec):
    file, _, argument = spec.partition(':')
    fast = argument in SAMPLE.get(file, (argument,))
    return spec if fast else pytest.param(spec, marks=pytest.mark.slow)

  return [mark(spec) for spec in specs]


def abstract_step(experiment: Experiment):
  """The shapes before a train step, after it, and of its metrics."""
  state = experiment.abstract_state
  batch = jax.eval_shape(lambda: example_batch(experiment.source, experiment.info.batch_size))
  return state, *jax.eval_shape(experiment.step_fn, state, batch)


def check_step(experiment: Experiment):
  before, after, metrics = abstract_step(experiment)
  shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), state) for state in (before, after)]
  assert shapes[0] == shapes[1]
  assert metrics['loss'].shape == ()
  assert ('probe_top1' in metrics) == (experiment.info.num_classes is not None)
  return before


def test_the_papers_have_configs():
  assert set(PAPERS) | {'quickstart', 'fashion_mnist'} <= set(FILES)
  for file in PAPERS:
    assert len(arguments(file)) >= 4


@pytest.mark.parametrize('file', FILES)
def test_every_option_is_allowed(file):
  for argument in arguments(file) or [None]:
    check_config(load(f'{file}:{argument}' if argument else file))


@pytest.mark.parametrize('spec', sampled(SPECS))
def test_numbers_of_the_table(spec):
  config = load(spec)
  views = augment.make(**to_dict(config.augment))
  # The parts of `build_experiment` that need no tracing.
  info = build._run_info(config, Fake(config.data.name, config.data.train_split), views)
  peak, total_steps = next(v for k, v in EXPECTED.items() if re.match(k, spec))
  assert info.total_steps == total_steps
  assert info.num_views == config.augment.make('num_views', 2)
  # Some cosines start or end their warm-up a little below the nominal rate.
  inexact = spec.endswith('-supervised') or spec.startswith('feature_transformation')
  steps = np.arange(total_steps)[:: 10 if total_steps > 10_000 else 1]
  rates = np.asarray(build._make_schedule(config, info)(steps))
  assert rates.max() == pytest.approx(peak, rel=0.02 if inexact else 1e-3)
  assert rates[-1] < 0.01 * peak or config.schedule.name == 'constant'


def full_specs():
  """Those that differ in the network or the step; all but the default arguments are slow."""
  default = {'sogclr:cifar10', 'tcl_supervised:cifar10-tcl', 'tcl_selfsup:cifar10-tcl'}
  for spec in SPECS:
    file, _, argument = spec.partition(':')
    if file in PAPERS and argument in SAMPLE.get(file, [argument]) and 'cifar100' not in argument:
      yield spec if spec in default else pytest.param(spec, marks=pytest.mark.slow)


@pytest.mark.parametrize('spec', list(full_specs()))
def test_a_step_of_the_full_network(spec):
  config = load(spec)
  state = check_step(build_experiment(config))
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
  check_step(build_experiment(tiny(load(spec))))


@pytest.mark.parametrize('file', FILES)
def test_commands_of_the_docstring(file):
  path, _ = resolve(file)
  specs = commanded(file)
  assert specs
  for spec in specs:
    assert resolve(spec)[0] == path
    load(spec)
  keys = re.findall(r'--config\.([\w.]+)=', docstring(file))
  known = {key for spec in specs for key, _ in leaves(load(spec))}
  assert set(keys) <= known


@pytest.mark.parametrize('file', FILES)
def test_without_an_argument_the_config_of_the_docstring(file):
  assert load(file) == load(commanded(file)[0])


@pytest.mark.parametrize('file', FILES)
def test_flags_can_choose_either_sam(file):
  config = load(file)
  config.sam.update({'name': 'sam', 'rho': 0.1})
  params = {'backbone': {'kernel': np.ones([2, 2], np.float32)}}
  for changes in ({}, {'name': 'noise_sam', 'rho': 0.05, 'eps': 1e-3, 'seed': 1}):
    config.sam.update(changes)
    sam = to_dict(config.sam)
    optim.make('sgd', {}, learning_rate=0.1, sam=sam).init(params)


@pytest.mark.parametrize('file', PAPERS)
def test_the_docstring_explains_every_argument(file):
  text = docstring(file).replace('CIFAR-100', 'cifar100')
  for argument in arguments(file):
    dataset, _, rest = argument.partition('-')
    rest = re.sub(r'-batch\d+$', '', rest)  # a range there
    for part in [dataset, rest] if file == 'sogclr' else [dataset, *rest.split('-')]:
      assert part in text
