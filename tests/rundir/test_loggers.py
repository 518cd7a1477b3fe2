"""Curves beside a run's own rows: a CSV file, Weights & Biases; TensorBoard is in test_metrics."""

import csv
import importlib.util
import json
import sys
import time
import types

import pytest

from clr_jax.core.errors import UserError
from clr_jax.experiment.schema import check_config
from clr_jax.rundir.loggers import LOGGERS, check_loggers
from clr_jax.rundir.metrics import MetricWriter
from clr_jax.rundir.workdir import Workdir
from tests import tiny


@pytest.fixture
def run(tmp_path):
  record = {'time': '2026-01-01', 'config_hash': 'abc', 'config': {'seed': 3}}
  (tmp_path / 'config.json').write_text(json.dumps(record))
  return Workdir(tmp_path)


def test_csv_has_a_line_for_each_step_also_after_a_resume(run):
  with MetricWriter(run, first_step=0, loggers=('csv',)) as writer:
    writer.write_scalars(10, {'loss': 0.5})
    writer.write_scalars(20, {'loss': 0.4, 'histogram': [1, 2]})
    writer.write_scalars(20, {'knn': 0.9})
  with MetricWriter(run, first_step=10, loggers=('csv',)) as writer:  # killed, done again
    writer.write_scalars(15, {'loss': float('nan')})
  with (run.path / 'metrics.csv').open() as file:
    rows = list(csv.DictReader(file))
  kept = [{k: v for k, v in row.items() if k != 'time'} for row in rows]
  assert kept == [{'step': '10', 'loss': '0.5'}, {'step': '15', 'loss': 'nan'}]
  assert not run.tensorboard.exists()


def test_a_logger_without_its_package_is_refused(monkeypatch):
  check_loggers(('tensorboard', 'csv'))
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"loggers=csv,wandb needs .* pip install 'clr-jax\[wandb\]'"):
    check_loggers(('csv', 'wandb'))


def test_the_config_names_all_loggers():
  config = tiny.get_config('simclr')
  config.loggers = tuple(LOGGERS)
  check_config(config)
  config.loggers = ('wnadb',)
  with pytest.raises(UserError, match="did you mean 'wandb'"):
    check_config(config)
  del config.loggers  # a run of an earlier version
  check_config(config)


@pytest.fixture
def fake(monkeypatch):
  """A module `wandb` that notes what it is told."""
  module = types.ModuleType('wandb')
  module.told = []

  class Run:
    def define_metric(self, name, step_metric):
      module.told.append((name, step_metric))

    def log(self, values):
      module.told.append(values)

    def finish(self):
      module.told.append('finished')

  def init(**options):
    module.told.append(options)
    return Run()

  module.init = init
  monkeypatch.setitem(sys.modules, 'wandb', module)
  return module


def test_wandb_is_told_the_rows_and_goes_on_in_one_run(run, fake):
  for first in (0, 10):
    with MetricWriter(run, first_step=first, loggers=('wandb',)) as writer:
      writer.write_scalars(first + 10, {'loss': 0.5})
  first, axis, row, end, second, *_ = fake.told
  assert first == second and first['resume'] == 'allow' and first['config'] == {'seed': 3}
  assert (first['name'], first['dir']) == (run.path.name, str(run.path))
  assert (axis, row, end) == (('*', 'step'), {'loss': 0.5, 'step': 10}, 'finished')


def test_wandb_that_cannot_start_is_one_sentence(run, fake):
  def init(**options):
    raise RuntimeError('no account\nmore')

  fake.init = init
  with pytest.raises(
    UserError, match=r'cannot start \(no account\): run `wandb login`, set WANDB_'
  ):
    MetricWriter(run, first_step=0, loggers=('wandb',))


@pytest.mark.slow
def test_wandb_itself_offline(run, monkeypatch):
  pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  with MetricWriter(run, first_step=0, loggers=('wandb', 'csv')) as writer:
    writer.write_scalars(10, {'loss': 0.5})
  (file,) = run.path.glob('wandb/offline-run-*/*.wandb')
  for _ in range(300):  # its own process writes it, a little later
    if b'loss' in file.read_bytes():
      return
    time.sleep(0.1)
  raise AssertionError('the row is not in the file of W&B')
