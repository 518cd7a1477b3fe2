"""clr-jax bench: complete, valid JSON, and FLOPs of a step however many steps a call takes."""

import json

import pytest

from clr_jax.bench import hardware, profile, step
from clr_jax.core.errors import UserError
from clr_jax.experiment.config_files import load

CONFIG = 'tests/tiny.py:simclr'


def _config(**changes):
  config = load(CONFIG)
  config.update(changes)
  return config


@pytest.fixture(scope='module')
def report(request):
  return step.measure(_config(steps_per_call=2), repeats=2, steps=3)


@pytest.fixture(autouse=True, scope='module')
def in_the_checkout(request):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(request.config.rootpath)
    yield


@pytest.mark.slow
@pytest.mark.xdist_group('bench_step')  # one report
def test_everything_is_measured(report):
  assert json.loads(json.dumps(report, allow_nan=False)) == report
  assert report['steps'] == 4 and report['steps_per_call'] == 2  # whole calls
  speed = report['samples_per_second']
  assert 0 < speed['min'] <= speed['median'] <= speed['max']
  assert report['step_seconds'] == pytest.approx(64 / speed['median'])
  assert report['data_seconds'] > 0 and min(report['compile_seconds'].values()) > 0
  shares = report['shares']
  assert sum(shares['operations'].values()) == pytest.approx(1) and shares['idle'] is None
  # Eight devices: communication too. Of convolutions a CPU tells nothing but what is left.
  absent = (profile.PRODUCTS, 'rest of attention', 'rest of MLPs')
  assert min(v for k, v in shares['operations'].items() if k not in absent) > 0
  alone = report['alone']
  assert alone['views'] == 2 * 64 and alone['embeddings'][:2] == [64, 2]
  assert alone['views_per_second'] > 0 and alone['loss_seconds'] > 0
  memory = report['memory']
  total = memory['argument'] + memory['output'] + memory['temp'] - memory['alias']
  assert memory['peak_bytes'] == total > 0
  assert report['mfu'] is None and report['mfu_note'] == 'not defined for CPUs'
  assert report['devices'] == 8 and 'jax' in report['libraries']


@pytest.mark.slow
@pytest.mark.xdist_group('bench_step')
def test_a_loop_over_steps_does_not_hide_their_flops(report):
  single = step.measure(_config(), repeats=1, steps=1)
  assert single['flops_per_step'] == report['flops_per_step'] > 1e5


@pytest.mark.slow
def test_the_text_names_all_numbers(report):
  text = step.format_report(report)
  for words in (
    'tracing',
    'samples/s',
    'views/s of the augmentation',
    'profiler trace',
    'memory_analysis',
    'MFU',
    '8 x cpu',
  ):
    assert words in text
  assert 'the profiler saw no operation' in step.format_report({**report, 'shares': None})
  assert 'unknown and unknown' in step.format_report(
    {**report, 'flops_per_step': None, 'bytes_per_step': None}
  )


def test_mfu_needs_a_known_peak(monkeypatch):
  cost = {'flops_per_step': 1e12, 'bytes_per_step': 1.0}
  device = type('Device', (), {'device_kind': 'NVIDIA A100-SXM4-40GB'})
  monkeypatch.setattr(step.jax, 'devices', lambda: [device])
  monkeypatch.setattr(step.jax, 'default_backend', lambda: 'gpu')
  assert step._utilization(cost, 0.01, 'bfloat16')['mfu'] == pytest.approx(1e14 / 312e12)
  device.device_kind = 'Some GPU'
  unknown = step._utilization(cost, 0.01, 'bfloat16')
  assert unknown['mfu'] is None and 'Some GPU is not known' in unknown['mfu_note']


@pytest.mark.parametrize(
  ('kind', 'precision', 'flops'),
  [
    ('NVIDIA H200', 'bfloat16', 989.5e12),
    ('NVIDIA H100 80GB HBM3', 'float32', 494.5e12),
    ('NVIDIA H100 PCIe', 'bfloat16', 756e12),
    ('NVIDIA L4', 'bfloat16', 121e12),
    ('NVIDIA L40', 'bfloat16', None),
    ('Tesla V100-SXM2-16GB', 'bfloat16', None),
    ('TPU v5 lite', 'bfloat16', 197e12),
    ('TPU v5p', 'bfloat16', 459e12),
    ('cpu', 'float32', None),
  ],
)
def test_peaks(kind, precision, flops):
  assert hardware.peak(kind, precision) == flops


def test_nothing_to_measure_is_refused():
  with pytest.raises(UserError, match='at least 1'):
    step.measure(_config(), repeats=0, steps=1)
