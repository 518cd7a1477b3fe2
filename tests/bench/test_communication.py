"""Traffic of devices: the parser of XLA's text, and weak scaling of the real step."""

import jax
import pytest

from clr_jax.bench import communication, hlo
from clr_jax.cli import main as cli
from clr_jax.core.errors import UserError
from clr_jax.experiment.config_files import load


def test_collectives_are_found_in_the_text():
  text = """ENTRY %main (p: f32[2,8]) -> f32[16,8] {
    %a.1 = f32[16,8]{1,0} all-gather(f32[2,8]{1,0} %p), channel_id=1
    %b = (f32[4]{0}, s32[]) all-reduce(%x, %y), to_apply=%add
    %c = f32[4]{0} add(%all-reduce.1, %z)
    %d = (f32[2]{0}, f32[2]{0}) all-to-all-start(f32[2]{0} %q)
    %e = f32[2]{0} all-to-all-done(%d)
}
"""
  assert communication.found(text) == {
    ('all-gather', 'f32[16,8]'): 1,
    ('all-reduce', 'f32[4]'): 1,
    ('all-reduce', 's32[]'): 1,
    ('all-to-all', 'f32[2]'): 2,
  }


def test_bytes_in_a_ring():
  found = communication.Found({('all-reduce', 'f32[8]'): 2, ('all-gather', 'u8[4]'): 1})
  assert communication.total_bytes(found) == 68
  assert communication.ring_bytes(found, 4) == 2 * 1.5 * 32 + 3
  assert communication.ring_bytes(found, 1) == 0
  parts = communication.Found(
    {('reduce-scatter', 'f32[2]'): 1, ('collective-permute', 'f32[2]'): 1}
  )
  assert communication.ring_bytes(parts, 4) == 3 * 8 + 8


@pytest.mark.parametrize(
  'method',
  [
    pytest.param('simclr', marks=pytest.mark.weekly),
    pytest.param('sogclr', marks=pytest.mark.weekly),
  ],
)
def test_only_what_concerns_the_embeddings_grows(method, request, monkeypatch):
  monkeypatch.chdir(request.config.rootpath)
  config = load(f'tests/tiny.py:{method}')
  per_device, views = 6, 2
  report = communication.measure(config, per_device=per_device, devices=(1, 2, 4, 8))
  alone, *rows = report['rows']
  assert alone['ring'] == alone['constant'] == alone['growing'] == 0
  # The gradients, once, and a few numbers for each channel of each BatchNorm.
  assert {row['constant'] for row in rows} == {rows[0]['constant']}
  assert report['parameter_bytes'] <= rows[0]['constant'] <= 2 * report['parameter_bytes']
  widest = config.method.out_dim
  for row in rows:
    batch = row['batch_size']
    assert batch == per_device * row['devices']
    assert row['growing'] / batch == rows[0]['growing'] / rows[0]['batch_size'] > 0
    assert sum(row['growing_shapes'].values()) <= 6
    for key in row['growing_shapes']:
      size = hlo.Shape(key.split()[1]).num_bytes // 4
      assert size % batch == 0 and size <= batch * views * widest, key
  text = communication.format_table(report)
  assert text.count('\n| ') == 5 and f'| 8 | {8 * per_device} |' in text


@pytest.mark.parametrize(
  ('options', 'says'),
  [
    ({'per_device': 0}, 'is not allowed: give 1 or more'),
    ({'per_device': 1, 'devices': (1, 2)}, 'two numbers of devices'),
    ({'per_device': 1, 'devices': (2, 4096)}, 'there are 8'),
    ({'per_device': 2000, 'devices': (1, 2, 4)}, 'batch_size=8000 is larger than the data set'),
  ],
)
def test_what_cannot_be_compared_is_refused(options, says, nothing_compiles):
  with pytest.raises(UserError, match=says):
    communication.measure(load('quickstart:simclr'), **options)


def test_the_command_is_found(monkeypatch, capsys):
  """Without compiling: the flag reaches `measure`, on virtual devices of the CPU."""
  updates = {}
  monkeypatch.setattr(jax.config, 'update', updates.__setitem__)
  rows = [{'devices': 2, 'batch_size': 8, 'constant': 1024, 'growing': 0, 'ring': 1024}]

  def measure(config, *, per_device):
    return {
      'config': {'method': config.method.name, 'data': 'd', 'model': 'm'},
      'per_device': per_device,
      'parameter_bytes': 512,
      'rows': [{**row, 'growing_shapes': {}} for row in rows],
    }

  monkeypatch.setattr(communication, 'measure', measure)
  cli.main(['clr-jax', 'bench', '--config=quickstart:simclr', '--collectives=4'])
  assert '| 2 | 8 | 1.0 KiB | 0.0 KiB | 1.0 KiB | - |' in capsys.readouterr().out
  assert updates == {'jax_platforms': 'cpu', 'jax_num_cpu_devices': 64}
