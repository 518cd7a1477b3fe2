"""Disjoint devices for the runs of a sweep."""

import pytest

from clr_jax.cli.sweep import slots
from clr_jax.cli.sweep.devices import held_slots
from clr_jax.cli.sweep.slots import Machine, Slot, make_slots
from clr_jax.core.errors import UserError


def visible(found):
  return [slot.environment['CUDA_VISIBLE_DEVICES'] for slot in found]


def test_no_gpu_has_two_runs(monkeypatch):
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  gpus = Machine('gpu', 4)
  assert visible(make_slots(gpus, None, None)) == ['0', '1', '2', '3']
  assert visible(make_slots(gpus, 2, None)) == ['0', '1']
  assert visible(make_slots(gpus, None, 2)) == ['0,1', '2,3']
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '5, GPU-aa')
  assert visible(make_slots(Machine('gpu', 2), None, 1)) == ['5', 'GPU-aa']


def test_two_sweeps_of_a_host_share_no_gpu(monkeypatch, tmp_path, capsys):
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  gpus = Machine('gpu', 4)
  with held_slots(gpus, 1, 2) as one:
    assert visible(one) == ['0,1']
    with held_slots(gpus, None, None) as other:
      assert visible(other) == ['2', '3']
      assert capsys.readouterr().err == 'other sweeps use GPUs 0, 1: 2 runs at once\n'
      with (
        pytest.raises(UserError, match='other sweeps use GPUs 0, 1, 2, 3'),
        held_slots(gpus, 1, 1),
      ):
        pass
    with held_slots(gpus, None, None) as again:
      assert visible(again) == ['2', '3']
      monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,7')
      with held_slots(Machine('gpu', 2), 1, None) as third:
        assert visible(third) == ['7']
  assert [path.name.rpartition('-')[2] for path in tmp_path.iterdir()] == ['gpus.lock']


def test_cores_are_divided(monkeypatch):
  monkeypatch.setattr(slots, 'available_cores', lambda: [0, 2, 4, 6, 8, 10, 12, 14, 16])
  cpu = Machine('cpu', 1)
  assert [slot.cores for slot in make_slots(cpu, None, None)] == [(0, 2, 4, 6), (8, 10, 12, 14, 16)]
  assert make_slots(cpu, 1, None) == [Slot()]
  assert len(make_slots(cpu, 9, None)) == 9
  monkeypatch.setattr(slots, 'available_cores', lambda: [0, 1])
  assert make_slots(cpu, None, None) == [Slot()]


def test_a_tpu_runs_one_after_the_other():
  assert make_slots(Machine('tpu', 8), None, None) == [Slot()]


@pytest.mark.parametrize(
  ('machine', 'jobs', 'per_run', 'words'),
  [
    (Machine('gpu', 4), 5, None, 'at most --jobs=4'),
    (Machine('gpu', 4), 3, 2, 'at most --jobs=2'),
    (Machine('gpu', 1), None, 2, 'number of GPUs: give at most 1'),
    (Machine('tpu', 4), 2, None, 'TPU'),
    (Machine('tpu', 4), None, 2, 'no effect on a TPU'),
    (Machine('cpu', 1), 10**6, None, 'cores'),
  ],
)
def test_more_than_there_is(machine, jobs, per_run, words):
  with pytest.raises(UserError, match=words):
    make_slots(machine, jobs, per_run)


def test_devices_are_found_by_another_process(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'x')
  monkeypatch.setattr(slots, '_PROBE', 'print("cuda 8")')
  assert slots.find_machine() == Machine('gpu', 8)
  monkeypatch.setattr(slots, '_PROBE', 'raise RuntimeError("no such platform x")')
  with pytest.raises(UserError, match=r'no such platform x.*correct JAX_PLATFORMS'):
    slots.find_machine()
