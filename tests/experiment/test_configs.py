"""The config files: every argument builds a run with the numbers of its table, without data."""

import functools
import json
import re

import jax
import numpy as np
import pytest

from clr_jax import augment, optim
from clr_jax.core.config_tree import leaves, to_dict
from clr_jax.experiment import build
from clr_jax.experiment.build import build_experiment, example_batch
from clr_jax.experiment.config_files import load, resolve
from clr_jax.experiment.schema import check_config
from tests import method_cases
from tests.experiment.config_files import (  # noqa: F401  (a fixture)
  FILES,
  PAPERS,
  SHAPES,
  Fake,
  arguments,
  commanded,
  docstring,
  no_data,
  tiny,
)

# (peak learning rate, total steps) by pattern of the spec; the first that matches counts.
EXPECTED = {
  r'sogclr:.*-rate-over-4': (0.0625, 781 * 400),
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
  r'images': (1e-3, 5 * 100),
  r'quickstart': (0.05, 11 * 25),
  r'fashion_mnist': (0.1, 234 * 10),
  r'robustness:contrastive': (3e-4, 371 * 100),
  r'robustness:supervised': (0.1, 390 * 200),
  r'robustness:finetuned': (0.8, 390 * 100),
  r'robustness:fashion_finetuned': (0.1, 78 * 5),
  r'robustness:fashion_contrastive': (1e-3, 78 * 5),
  r'robustness:fashion_supervised': (0.1, 78 * 5),
  r'vit:.*-fashion_mnist': (2e-3, 80 * 5),
  r'vit:dino': (2e-3, 1251 * 300),
  r'vit:sogclr': (1.5e-4, 5004 * 300),
  r'vit:': (2.4e-3, 312 * 300),
  r'score_study:': (0.06, 78 * 6),
}
# The full networks' backbones, in parameters: torchvision's without classifier and with a 3x3 stem.
BACKBONES = {'resnet50': 23_500_352, 'resnet34': 21_276_992, 'resnet18': 11_168_832}
STEMS = {'imagenet': (49 - 9) * 3 * 64}  # more


def specs(file):
  """All arguments of a file."""
  return [f'{file}:{a}' if a else file for a in arguments(file) or ['']]


def test_the_papers_have_configs():
  assert set(PAPERS) | {'quickstart', 'fashion_mnist'} <= set(FILES)
  for file in PAPERS:
    assert len(arguments(file)) >= 4


# ---------------------------------------------------------------- numbers
@pytest.mark.parametrize('file', FILES)
def test_numbers_of_the_table(file):
  """Every argument has allowed options, and a method, plug-ins and wrappers that fit together."""
  wrong = {spec: found for spec in specs(file) if (found := wrong_numbers(spec))}
  assert not wrong


def wrong_numbers(spec) -> str:
  config = load(spec)
  check_config(config)
  views = augment.make(**to_dict(config.augment))
  # The parts of `build_experiment` that need no tracing.
  source = Fake(config.data.name, config.data.train_split)
  info = build._run_info(config, source, views)
  build.make_method(config, build.make_backbone(config, source.image_shape[-1], source.name), info)
  peak, total_steps = next(v for k, v in EXPECTED.items() if re.match(k, spec))
  # Some cosines start or end their warm-up a little below the nominal rate.
  inexact = spec.endswith('-supervised') or spec.startswith('feature_transformation')
  steps = np.linspace(0, total_steps - 1, 1000).astype(int)  # one shape, which compiles once
  rates = np.asarray(build._make_schedule(config, info)(steps))
  checks = {
    f'{info.total_steps} steps': info.total_steps == total_steps,
    f'tests on {config.data.test_split}': config.data.test_split != 'validation'
    or 'imagenet' in config.data.name,
    f'{info.num_views} views': info.num_views == config.augment.get('num_views', 2),
    f'rate {rates.max()}': rates.max() == pytest.approx(peak, rel=0.02 if inexact else 1e-3),
    f'last rate {rates[-1]}': rates[-1] < 0.01 * peak
    or config.schedule.name in ('constant', 'step_decay'),
  }
  return ', '.join(name for name, right in checks.items() if not right)


# ---------------------------------------------------------------- one step, traced
def structures(config) -> set[str]:
  """Parts of a config that can break tracing: everything but the sizes of numbers."""

  def of(value):
    if isinstance(value, dict):
      return {k: of(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
      return [of(v) for v in value]
    return value if isinstance(value, bool | str | None) else value > 0

  parts = ('method', 'plugins', 'augment', 'model', 'optimizer', 'sam', 'schedule', 'probe')
  return {json.dumps({part: of(to_dict(config[part]))}, sort_keys=True) for part in parts}


@functools.cache
def representatives() -> list[str]:
  """About 60 specs that together have every structure of every part; of every file at least one."""
  left = {spec: structures(load(spec)) for file in FILES for spec in specs(file)}
  chosen = [specs(file)[0] for file in FILES]
  seen = set().union(*(left[spec] for spec in chosen))
  while set().union(*left.values()) - seen:
    chosen.append(max(left, key=lambda spec: len(left[spec] - seen)))
    seen |= left[chosen[-1]]
  return chosen


def check_step(config):
  """The shapes of a train step: the state keeps its own, the loss is a number."""
  experiment = build_experiment(config)
  state = experiment.abstract_state
  batch = jax.eval_shape(lambda: example_batch(experiment.source, experiment.info.batch_size))
  after, metrics = jax.eval_shape(experiment.step_fn, state, batch)
  before, after = (jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (state, after))
  assert before == after
  assert metrics['loss'].shape == ()
  assert ('probe_top1' in metrics) == (experiment.info.num_classes is not None)


def check_steps(chosen):
  """Traces steps of small networks."""
  for spec in chosen:
    try:
      check_step(tiny(load(spec)))
    except Exception as error:
      error.add_note(f'in {spec}')
      raise


# Three views, two steps of a queue, a second gradient.
@pytest.mark.parametrize(
  'spec', ['tcl_selfsup:cifar10-tcl', 'sogclr:cifar10-moco', 'sogclr:cifar10-sam']
)
def test_a_step(spec):
  check_steps([spec])


@pytest.mark.slow
@pytest.mark.parametrize('file', FILES)
def test_a_step_of_every_structure(file):
  check_steps([s for s in representatives() if s.partition(':')[0] == file])


@pytest.mark.weekly
@pytest.mark.parametrize('file', FILES)
def test_a_step_of_the_other_arguments(file):
  check_steps([s for s in specs(file) if s not in representatives()])


# ---------------------------------------------------------------- one step, run
def start(spec):
  """Two steps of a small network on small, random images; the loss is a number."""
  config = tiny(load(spec))
  config.batch_size = 16
  config.augment.size = 32
  sizes = method_cases.options(config.method.name)
  sizes |= {'top_k': 8} if config.method.get('retrieval') == 'top_k' else {}
  config.method.update({k: v for k, v in sizes.items() if k != 'retrieval'})
  if config.plugins.mochi.num_mixed:
    config.plugins.mochi.update({'num_mixed': 8, 'num_query_mixed': 4, 'num_hard': 8})
  experiment = build_experiment(config, devices=jax.devices()[:1])
  rng = np.random.default_rng(0)
  batch = example_batch(experiment.source, 16)
  batch = batch._replace(image=rng.integers(0, 256, batch.image.shape, np.uint8))
  if batch.label is not None:
    batch = batch._replace(label=np.arange(16, dtype=np.int32) % experiment.info.num_classes)
  state, step = experiment.init(), jax.jit(experiment.step_fn)
  for _ in range(2):
    state, metrics = step(state, batch)
    assert np.isfinite(metrics['loss'])


@pytest.mark.weekly
@pytest.mark.parametrize('spec', ['feature_transformation:imagenet100-swav-both'])
def test_rows_of_the_documents_start(spec):
  start(spec)


@pytest.mark.weekly
@pytest.mark.parametrize('file', [*PAPERS, 'robustness'])
def test_every_structure_of_the_documents_starts(file):
  for spec in representatives():
    if spec.partition(':')[0] == file:
      try:
        start(spec)
      except Exception as error:
        error.add_note(f'in {spec}')
        raise


@pytest.mark.slow
@pytest.mark.parametrize('spec', ['sogclr:cifar10', 'tcl_supervised:imagenet100-tcl'])
def test_a_step_of_the_full_network(spec):
  check_step(load(spec))


@pytest.mark.parametrize(
  'file', [pytest.param(f, marks=[pytest.mark.slow] * (f != 'sogclr')) for f in PAPERS]
)
def test_full_networks(file):
  """Each that the file has, once."""
  networks = {}
  for config in map(load, specs(file)):
    shape = SHAPES[config.data.name][0]
    options = {k: v for k, v in config.model.items() if k not in ('mean', 'std')}
    networks[shape[-1], json.dumps(options, sort_keys=True)] = config, shape
  for config, shape in networks.values():
    backbone = build.make_backbone(config, shape[-1], config.data.name)
    init = functools.partial(backbone.init, train=False)
    images = jax.ShapeDtypeStruct((2, *shape), np.float32)
    params = jax.eval_shape(init, jax.random.key(0), images)['params']
    lacking = (3 - shape[-1]) * 9 * 64
    expected = BACKBONES[config.model.name] + STEMS.get(config.model.stem, 0) - lacking
    assert sum(x.size for x in jax.tree.leaves(params)) == expected, config.model


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
