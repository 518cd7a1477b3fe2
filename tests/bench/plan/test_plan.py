"""`clr-jax plan`: targets, the CPU's own compiler, and those of absent GPUs and TPUs."""

import contextlib
import importlib.util
import json
import types

import jax
import numpy as np
import pytest

from clr_jax.bench import hardware, hlo
from clr_jax.bench.plan import bound, evaluation, parts, program, report, targets
from clr_jax.cli import main as cli
from clr_jax.core.config_tree import changed
from clr_jax.core.errors import UserError
from clr_jax.experiment import build, method
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load
from clr_jax.ops import sharding
from tests.bench.plan import command


@pytest.mark.parametrize(
  ('text', 'devices', 'hosts'),
  [('h200:8', 8, 1), ('a100:16', 16, 2), ('v5e:4x4', 16, 1), ('v5p:2x2x1', 4, 1), ('cpu:8', 8, 1)],
)
def test_targets(text, devices, hosts):
  target = targets.parse(text)
  assert target.of_one_process.devices == {'v5e:4x4': 4, 'v5p:2x2x1': 4}.get(text, 8)
  assert (target.devices, target.hosts) == (devices, hosts)
  if target.chip.platform != 'cpu':
    least = bound.seconds(target, 'bfloat16', {}, kept=10**9, sent=0)
    assert least['bound'] == least['memory'] > 0


@pytest.mark.parametrize(
  ('text', 'says'),
  [
    ('h100', '--target=h100: give the number of devices after the colon'),
    ('h20:8', "unknown kind of device in --target 'h20': did you mean 'h200'"),
    ('h200:3', 'give a power of two of devices, at most 1024, not 3'),
    ('h200:0', 'give the number of devices'),
    ('cpu:128', 'give a power of two of devices, at most 64, not 128'),
    ('v5e:16', 'give a shape such as 4x4 after'),
    ('v5p:4x4', 'give a shape such as 2x2x1 after'),
    ('v5e:1x4', 'even numbers for the first two axes'),
  ],
)
def test_bad_targets_are_refused(text, says, nothing_compiles):
  with pytest.raises(UserError, match=says):
    targets.parse(text)


@pytest.mark.parametrize(('target', 'extra'), [('h200:8', 'cuda13'), ('v5e:4x4', 'tpu')])
def test_a_missing_compiler_is_named(target, extra, monkeypatch, capsys, nothing_compiles):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(SystemExit) as caught:
    cli.main(['clr-jax', 'plan', '--config=quickstart', f'--target={target}'])
  said = capsys.readouterr().err
  assert caught.value.code == 2 and said.count('\n') == 1
  assert f"pip install 'jax[{extra}]=={jax.__version__}'" in said


@pytest.mark.parametrize(
  ('flags', 'says'),
  [
    (['--protocol=knn', '--counts=1,2'], '--counts=1,2: give TRAIN,TEST,CLASSES, whole numbers'),
    (['--protocol=knn', '--counts=9,9,10'], '--counts=9,9,10: give TRAIN,TEST,CLASSES'),
    (['--protocol=knn', '--counts=9,9,1'], 'with 2 to TRAIN classes'),
    (
      ['--protocol=knn', '--counts=9,9,2'],
      'eval.protocols.knn.k=10 is more than the 9 training images: lower k',
    ),
    (
      ['--protocol=linear', '--counts=400,9,9'],
      'eval.protocols.linear.label_fraction=0.01 is 4 labels: give one to each of 9 classes',
    ),
    (['--counts=9,9,2'], '--counts has no effect without --protocol'),
    (['--protocol=knn', '--max_batch'], '--max_batch and --protocol cannot be combined'),
    (['--protocol=transfer'], "unknown protocol of plan 'transfer'"),
  ],
)
def test_bad_protocols_and_counts_are_refused(flags, says, capsys, nothing_compiles, monkeypatch):
  monkeypatch.setattr(jax.config, 'update', lambda name, value: None)
  with pytest.raises(SystemExit) as caught:
    cli.main(['clr-jax', 'plan', '--config=quickstart', '--target=cpu:8', *flags])
  said = capsys.readouterr().err
  assert caught.value.code == 2 and said.count('\n') == 1 and says in said


def test_no_largest_batch_for_cpus(capsys, nothing_compiles, monkeypatch):
  monkeypatch.setattr(jax.config, 'update', lambda name, value: None)
  with pytest.raises(SystemExit) as caught:
    cli.main(['clr-jax', 'plan', '--config=quickstart', '--target=cpu:8', '--max_batch'])
  said = capsys.readouterr().err
  assert caught.value.code == 2 and said.count('\n') == 1
  assert 'needs the memory of a device, which cpu:8 lacks' in said


def test_memory_of_a_gpu_is_what_jax_reserves(monkeypatch):
  target = targets.parse('h200:1')
  assert target.chip.memory is not None
  assert target.usable_memory == int(0.75 * target.chip.memory)
  monkeypatch.setenv('XLA_PYTHON_CLIENT_MEM_FRACTION', '.9')
  assert target.usable_memory == int(0.9 * target.chip.memory)
  for share in ('most', '0', 'nan', '-1'):
    monkeypatch.setenv('XLA_PYTHON_CLIENT_MEM_FRACTION', share)
    with pytest.raises(UserError, match=f'MEM_FRACTION={share} is not a share'):
      targets.parse('h200:1')


def test_the_largest_batch(monkeypatch):
  """Without compiling: 1000 images a device fit."""
  asked = []

  def compile_step(experiment, target):
    asked.append(experiment.info.batch_size)
    return experiment.info.batch_size

  monkeypatch.setattr(program, 'build', lambda config, target: _sized(config))
  monkeypatch.setattr(program, 'compile_step', compile_step)
  monkeypatch.setattr(program, 'fits', lambda size, target: size <= 8000)
  config = load('quickstart')
  seen = []
  target = targets.parse('h200:8')
  fits, too_large = program.largest_batch(config, target, lambda *found: seen.append(found))
  assert fits <= 8000 < too_large and fits % 8 == too_large % 8 == 0
  assert too_large - fits <= fits // 16 and dict(seen)[fits] and not dict(seen)[too_large]
  assert len(asked) == len(set(asked)) < 10
  _sized.examples = 500
  assert program.largest_batch(config, target, lambda *_: None) == (496, None)
  with pytest.raises(UserError, match='--max_batch needs the memory of a device'):
    program.largest_batch(config, targets.parse('cpu:8'), lambda *_: None)


def test_shapes_are_those_of_the_data(request, monkeypatch):
  """The compiled program takes the arguments of training."""
  monkeypatch.chdir(request.config.rootpath)
  for mode in ('resident', 'streamed'):
    config = changed(load('tests/tiny.py:sogclr'), {'batch_size': 16, 'data.mode': mode})
    experiment = build_experiment(config)
    pipeline = experiment.make_pipeline()
    with contextlib.closing(pipeline.blocks([(0, 1)])) as blocks:
      made = pipeline.resident, next(blocks)
    shapes = experiment.abstract_data()
    assert jax.tree.structure(shapes) == jax.tree.structure(made)
    for shape, array in zip(jax.tree.leaves(shapes), jax.tree.leaves(made), strict=True):
      assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
      assert shape.sharding.is_equivalent_to(array.sharding, array.ndim)


def test_accelerators_have_their_own_forms(monkeypatch):
  """Decided by the devices that are compiled for, not by those that are here."""
  asked, terms = [], []
  monkeypatch.setattr(
    method, 'accumulate', lambda plain, info, parts, unroll: asked.append(unroll) or plain
  )
  make = build.make_backbone
  monkeypatch.setattr(
    build, 'make_backbone', lambda *args, norm_terms: terms.append(norm_terms) or make(*args)
  )
  config = changed(load('quickstart'), {'accumulate': 2, 'batch_size': 24})
  build_experiment(config, devices=jax.devices()[:1])
  for platform in ('tpu', 'cuda'):
    device = types.SimpleNamespace(platform=platform, id=0, process_index=0)
    mesh = _Fake(devices=np.array([device]), size=1)
    monkeypatch.setattr(sharding, 'make_mesh', lambda _, mesh=mesh: mesh)
    assert build_experiment(config).views.together
  assert asked == [True, False, False]
  assert terms == [0, 1, 4]  # BatchNorm in two passes, in one, in one with sums of four terms


class _Fake:
  def __init__(self, **facts):
    self.__dict__.update(facts)


def _sized(config):
  return _Fake(info=_Fake(batch_size=config.batch_size), source=_Fake(num_examples=_sized.examples))


_sized.examples = 50_000


@pytest.mark.slow
def test_on_cpus_the_plan_is_what_training_compiles(request, monkeypatch):
  """The step that `train` compiles, on 1 and on 8 devices: the work is divided."""
  monkeypatch.chdir(request.config.rootpath)
  config = changed(load('tests/tiny.py:sogclr'), {'batch_size': 16})
  alone, eight = (report.make(config, targets.parse(f'cpu:{n}')) for n in (1, 8))
  assert not alone['collectives'] and eight['collectives']['all-reduce']['count'] > 0
  products = [r['parts'][parts.CONVOLUTIONS]['product_flops'] for r in (alone, eight)]
  assert products[0] == pytest.approx(8 * products[1], rel=0.2) and products[1] > 0
  for part in ('augmentation', 'normalization', 'loss', 'optimizer'):
    assert alone['parts'][part]['bytes'] > 0, part
  text = report.format_report(eight)
  assert 'compiled for cpu:8, 8 device(s)' in text and 'no bound' in text
  assert json.loads(json.dumps(eight))['memory']['peak'] > 0


@pytest.mark.slow
@pytest.mark.parametrize('protocol', ['linear', pytest.param('knn', marks=pytest.mark.weekly)])
def test_an_evaluation(protocol, request, monkeypatch):
  """Products of the compiled programs are those that the bound counts."""
  monkeypatch.chdir(request.config.rootpath)
  monkeypatch.setattr(hardware, 'exact_peak', lambda kind: 1e9)
  monkeypatch.setattr(hardware, 'peak', lambda kind, precision: 1e9)
  config = load('tests/tiny.py:sogclr')
  cpu = targets.parse('cpu:8')
  target = cpu._replace(chip=cpu.chip._replace(bandwidth=1e9))
  compiled = []
  compile_for = program.compile_for

  def keep(traced, target):
    compiled.append(compile_for(traced, target))
    return compiled[-1]

  monkeypatch.setattr(program, 'compile_for', keep)
  found = evaluation.make(config, target, protocol, (1000, 100, 10))
  assert found['sizes'] == {'train': 1000, 'test': 100, 'classes': 10, 'width': 16}
  assert found['fits'] and found['least_seconds'] > 0
  for row, program_of_row in zip(found['programs'], compiled, strict=True):
    costs = parts.costs(hlo.read(program_of_row.as_text())).values()
    assert sum(part['product_flops'] for part in costs) >= row['flops'] > 0, row['name']
  text = evaluation.format_report(found)
  assert 'compiled for cpu:8' in text and '1,000 training and 100 test images' in text
  assert json.loads(json.dumps(found)) == found


@pytest.mark.slow
@pytest.mark.parametrize(
  ('target', 'package'), [('h200:2', 'jax_plugins.xla_cuda13'), ('v5e:2x2', 'libtpu')]
)
def test_absent_hardware_is_compiled_for(target, package):
  found = command.plan(target, package, '--config=quickstart', '--config.batch_size=64')
  assert found['fits'] and found['least_seconds']['bound'] > 0
  assert found['collectives']['all-reduce']['count'] > 0
  assert found['parts'][parts.CONVOLUTIONS]['product_flops'] > 0
  assert found['estimated_seconds'] > 0
  if target.startswith('h200'):
    assert found['estimated_seconds'] >= found['least_seconds']['bound']


@pytest.mark.parametrize(('cycles', 'made_of'), [(0, 'one after another'), (7, 'the cycles')])
def test_times_are_a_bound_and_an_estimate(cycles, made_of):
  times = {'least_seconds': {'products': 1e-3, 'bound': 1e-3}, 'estimated_seconds': 4e-3}
  lines = report._format_times({**times, 'steps_per_epoch': 10, 'total': {'cycles': cycles}})
  assert lines[0].startswith('at least       1.000 ms a step, 0.0 s an epoch of 10 steps')
  assert lines[1].startswith('estimate       4.000 ms a step: ') and made_of in lines[1]


def test_the_terminal_shows_what_compiles(capsys):
  program.compile_for(jax.jit(lambda x: x + 1).trace(1.0), targets.parse('cpu:1'))
  assert capsys.readouterr().err.startswith('compiling for cpu:1 ...\n')


def test_a_kernel_of_triton_that_does_not_compile_is_replaced_by_cublas():
  def compile_for(message):
    def compile(options):
      if not options:
        raise jax.errors.JaxRuntimeError(message)
      return options

    return program._compile(types.SimpleNamespace(compile=compile), None)

  untried = "INTERNAL: Couldn't find output tile sizes that satisfy hlo: %dot.1"
  assert compile_for(untried) == {'xla_gpu_enable_triton_gemm': False}
  with pytest.raises(jax.errors.JaxRuntimeError, match='another'):
    compile_for('INTERNAL: another')
