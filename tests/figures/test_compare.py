"""`clr-jax inspect compare`: groups of seeds, intervals, and what is missing."""

import csv
import json
import math
import pathlib

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from clr_jax.cli import main as cli
from clr_jax.core.config_tree import changed
from clr_jax.core.errors import UserError
from clr_jax.experiment.config_files import load
from clr_jax.experiment.schema import keys_without_effect
from clr_jax.figures import compare, seeds
from clr_jax.rundir import workdir
from clr_jax.rundir.identity import open_run
from clr_jax.rundir.metrics import MetricWriter
from clr_jax.rundir.reader import read as read_run
from clr_jax.rundir.results import Measurement, write_result

TINY = pathlib.Path(__file__).parent.parent / 'tiny.py'
STEPS = (4, 8, 22)  # 22 is the last of the epoch
SEEDS = (0, 1, 2)


def loss(seed, step):
  return 5.0 / step + 0.1 * seed**2


def knn(seed, draw, bonus=0.0):
  return 0.5 + 0.05 * seed + 0.01 * draw + bonus


def make_run(directory, *, steps=STEPS, measured=True, bonus=0.0, **changes):
  """The files of a run that was never trained."""
  config = changed(load(f'{TINY}:simclr'), changes)
  run = workdir.Workdir(directory)
  open_run(run, config, keys_without_effect(config))
  (run.path / 'data.json').write_text(json.dumps({'number': 1437}))
  with MetricWriter(run, first_step=0, tensorboard=False) as writer:
    for step in steps:
      writer.write_scalars(step, {'loss': loss(config.seed, step)})
  for step in steps[-1:]:
    (run.checkpoints / str(step)).mkdir(parents=True)
  for step in STEPS[1:] if measured else ():  # only the newest counts
    for draw in (0, 1):
      value = knn(config.seed, draw, bonus) if step == STEPS[-1] else 0.1
      params = {'k': 5, 'draw': draw, 'temperature': 0.1}
      found = Measurement('top1', value, 'knn', params, 'trained', 1.0)
      keys = {'data': 'digits train, test', 'data_checksum': 'c', 'seed': config.seed}
      write_result(run, found, step=step, checkpoint=None, config_hash='h', **keys)
  return str(directory)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs')
  # How much is logged, and where, does not change what is trained.
  cold = [make_run(folder / f'cold_s{s}', seed=s, log_every=4 + s) for s in SEEDS]
  hot = make_run(folder / 'hot', bonus=0.2, **{'method.temperature': 0.9})
  return [cold[0], hot, *cold[1:]]


def read(path):
  with open(path) as file:
    return list(csv.DictReader(file))


def students(values):
  low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
  return np.mean(values), (high - low) / 2


def test_runs_that_differ_in_the_seed_are_one_group(runs):
  cold, hot = found = seeds.groups([read_run(directory, runs) for directory in runs])
  assert (cold.name, hot.name) == ('cold (3 runs)', 'hot')
  assert [run.name for run in cold.runs] == ['cold_s0', 'cold_s1', 'cold_s2']
  assert seeds.differences(found) == [('method.temperature', '0.5', '0.9')]


def test_numbers_and_their_intervals(runs, tmp_path, capsys):
  out = tmp_path / 'new' / 'c.png'
  workdirs = [f'--workdir={directory}' for directory in runs]
  cli.main(['clr-jax', 'inspect', 'compare', *workdirs, f'--out={out}'])
  assert np.asarray(Image.open(out).convert('L')).std() > 10
  rows = {(r['group'], int(r['step'])): r for r in read(out.with_suffix('.csv'))}
  assert len(rows) == 6 and {r['metric'] for r in rows.values()} == {'loss'}
  for step in STEPS:
    mean, half = students([loss(seed, step) for seed in SEEDS])
    row = rows['cold (3 runs)', step]
    np.testing.assert_allclose(
      [float(row['mean']), float(row['half_interval_95'])], [mean, half], rtol=1e-6
    )
    assert row['runs'] == '3'
    alone = rows['hot', step]
    assert math.isclose(float(alone['mean']), loss(0, step), rel_tol=1e-6)
    assert (alone['half_interval_95'], alone['runs']) == ('nan', '1')
  cold, hot = read(tmp_path / 'new' / 'c-results.csv')
  expected = students([np.mean([knn(seed, draw) for draw in (0, 1)]) for seed in SEEDS])
  np.testing.assert_allclose([float(cold['mean']), float(cold['half_interval_95'])], expected)
  assert (cold['runs'], cold['step'], cold['params']) == ('3', '22', 'k=5 temperature=0.1')
  assert math.isclose(float(hot['mean']), 0.705) and hot['runs'] == '1'
  said = capsys.readouterr().out
  assert 'cold (3 runs): cold_s0, cold_s1, cold_s2 (seed 0, 1, 2)' in said
  assert 'method.temperature  0.5            0.9' in said
  assert f'{expected[0]:.4f} +- {expected[1]:.4f} (n=3)  22    cold (3 runs)' in said


def test_what_is_missing_is_said_and_the_rest_drawn(runs, tmp_path, capsys):
  half = make_run(tmp_path / 'half', steps=STEPS[:2], measured=False, seed=7)
  begun = make_run(tmp_path / 'begun', steps=(), measured=False, seed=8)
  given = [runs[0], half, begun, str(tmp_path / 'none')]
  _, data, measured = compare.figures(given, str(tmp_path / 'c.png'))
  said = capsys.readouterr().out
  for line in (
    'half: interrupted, or still running: step 8 of 22; it has no results (clr-jax evaluate',
    'begun: not begun: it has neither metrics nor a checkpoint; it has no metrics; it has no',
    f'left out: {tmp_path}/none is not a run',
  ):
    assert line in said
  assert [(r['step'], r['runs']) for r in read(data)] == [('4', '2'), ('8', '2'), ('22', '1')]
  assert [row['runs'] for row in read(measured)] == ['1']
  with pytest.raises(UserError, match='neither metrics nor results'):
    compare.figures([begun], str(tmp_path / 'c.png'))
  with pytest.raises(UserError, match='is not a run'):
    compare.figures([str(tmp_path / 'none')], str(tmp_path / 'c.png'))


def test_a_metric_that_was_not_measured_and_equal_seeds(runs, tmp_path, capsys):
  again = make_run(tmp_path / 'again', seed=0)
  compare.figures([runs[0], again, again], str(tmp_path / 'c.png'), metric='robust_top1')
  said = capsys.readouterr().out
  assert "no result is 'robust_top1' and none is drawn: choose --params.metric of top1" in said
  assert 'cold_s0, again (seed 0, 0; equal seeds are no independent repetitions)' in said


def test_settings_of_one_group_alone_are_not_drawn(runs, capsys):
  found = seeds.groups([read_run(directory, runs) for directory in runs])
  records = seeds.results(found)
  alone = {**records[-1], 'protocol': 'linear'}
  rows = compare.table.averaged([*records, alone])
  assert [row.protocol for row in compare._drawn(rows, 'top1')] == ['knn', 'knn']
  assert '1 results that one group alone has are not drawn' in capsys.readouterr().out
  assert [row.protocol for row in compare._drawn(rows[-1:], 'top1')] == ['linear']
