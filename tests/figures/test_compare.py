"""`clr-jax inspect compare`: groups of seeds, intervals, and what is missing."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from clr_jax.cli import main as cli
from clr_jax.core.errors import UserError
from clr_jax.figures.analysis.seed_groups import differing_keys, group_results, seed_groups
from clr_jax.figures.compare import compare, select_results
from clr_jax.figures.drawing.draw import draw_figure
from clr_jax.rundir import table
from clr_jax.rundir.reader import read_runs
from tests.figures.run_files import add_result, read_csv, write_run

STEPS = (4, 8, 22)  # 22 is the last of the epoch
SEEDS = (0, 1, 2)


def loss(seed, step):
  return 5.0 / step + 0.1 * seed**2


def knn(seed, draw, bonus=0.0):
  return 0.5 + 0.05 * seed + 0.01 * draw + bonus


def make_run(directory, *, steps=STEPS, measured=True, bonus=0.0, seed=0, **changes):
  rows = {step: {'loss': loss(seed, step)} for step in steps}
  write_run(directory, rows, 'simclr', images=1437, seed=seed, **changes)
  for step in steps[-1:]:
    (directory / 'checkpoints' / str(step)).mkdir(parents=True)
  for step in STEPS[1:] if measured else ():  # only the newest counts
    for draw in (0, 1):
      value = knn(seed, draw, bonus) if step == STEPS[-1] else 0.1
      params = {'k': 5, 'draw': draw, 'temperature': 0.1}
      add_result(directory, 'knn', 'top1', value, params, step=step)
  return str(directory)


@pytest.fixture(scope='module')
def directories(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs')
  # How much is logged, and where, does not change what is trained.
  cold = [make_run(folder / f'cold_s{s}', seed=s, log_every=4 + s) for s in SEEDS]
  hot = make_run(folder / 'hot', bonus=0.2, **{'method.temperature': 0.9})
  return [cold[0], hot, *cold[1:]]


def students(values):
  low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
  return np.mean(values), (high - low) / 2


def test_runs_that_differ_in_the_seed_are_one_group(directories):
  cold, hot = seed_groups(read_runs(directories)[0])
  assert (cold.name, hot.name) == ('cold (3 runs)', 'hot')
  assert [run.name for run in cold.runs] == ['cold_s0', 'cold_s1', 'cold_s2']
  assert differing_keys([cold.runs[0], hot.runs[0]]) == [('method.temperature', ['0.5', '0.9'])]


def test_numbers_and_their_intervals(directories, tmp_path, capsys):
  out = tmp_path / 'new' / 'c.png'
  workdirs = [f'--workdir={directory}' for directory in directories]
  cli.main(['clr-jax', 'inspect', 'compare', *workdirs, f'--out={out}'])
  assert np.asarray(Image.open(out).convert('L')).std() > 10
  rows = {(r['group'], int(r['step'])): r for r in read_csv(out.with_suffix('.csv'))}
  assert len(rows) == 6 and {r['metric'] for r in rows.values()} == {'loss'}
  for step in STEPS:
    mean, half = students([loss(seed, step) for seed in SEEDS])
    row = rows['cold (3 runs)', step]
    found = [float(row['mean']), float(row['half_interval_95'])]
    np.testing.assert_allclose(found, [mean, half], rtol=1e-6)
    assert row['runs'] == '3'
    alone = rows['hot', step]
    assert math.isclose(float(alone['mean']), loss(0, step), rel_tol=1e-6)
    assert (alone['half_interval_95'], alone['runs']) == ('nan', '1')
  cold, hot = read_csv(tmp_path / 'new' / 'c-results.csv')
  expected = students([np.mean([knn(seed, draw) for draw in (0, 1)]) for seed in SEEDS])
  np.testing.assert_allclose([float(cold['mean']), float(cold['half_interval_95'])], expected)
  assert (cold['runs'], cold['step'], cold['params']) == ('3', '22', 'k=5 temperature=0.1')
  assert math.isclose(float(hot['mean']), 0.705) and hot['runs'] == '1'
  said = capsys.readouterr().out
  assert 'cold (3 runs): cold_s0, cold_s1, cold_s2 (seed 0, 1, 2)' in said
  assert 'method.temperature  0.5            0.9' in said
  assert f'{100 * expected[0]:.2f} +- {100 * expected[1]:.2f} % (n=3)  22    cold (3 runs)' in said


def test_missing_parts_are_named_and_the_rest_drawn(directories, tmp_path, capsys):
  half = make_run(tmp_path / 'half', steps=STEPS[:2], measured=False, seed=7)
  begun = make_run(tmp_path / 'begun', steps=(), measured=False, seed=8)
  given = [directories[0], half, begun, str(tmp_path / 'none')]
  _, data, measured = draw_figure('compare', given, str(tmp_path / 'c.png'))
  said = capsys.readouterr().out
  for line in (
    'half: interrupted, or still running: step 8 of 22; it has no results (clr-jax evaluate',
    'begun: not begun: it has neither metrics nor a checkpoint; it has no metrics; it has no',
    f'left out: {tmp_path}/none is not a run',
  ):
    assert line in said
  assert [(r['step'], r['runs']) for r in read_csv(data)] == [('4', '2'), ('8', '2'), ('22', '1')]
  assert [row['runs'] for row in read_csv(measured)] == ['1']
  with pytest.raises(UserError, match='it has no metrics; it has no results'):
    draw_figure('compare', [begun], str(tmp_path / 'c.png'))


def test_a_metric_that_was_not_measured_and_equal_seeds(directories, tmp_path):
  again = make_run(tmp_path / 'again', seed=0)
  runs = read_runs([directories[0], again, again])[0]
  with pytest.raises(UserError, match=r"unknown metric of the results 'robust_top1': .* of top1"):
    compare(runs, metric='robust_top1')
  found = compare(runs)
  assert 'cold_s0, again (seed 0, 0; equal seeds are no independent repetitions)' in found.text
  assert [len(block.panels) for block in found.drawn[0].blocks] == [1, 1]


def test_settings_of_one_group_alone_are_not_drawn(directories):
  records = group_results(seed_groups(read_runs(directories)[0]))
  rows = table.averaged([*records, {**records[-1], 'protocol': 'linear'}])
  drawn, left_out = select_results(rows, 'top1')
  assert [row.protocol for row in drawn] == ['knn', 'knn']
  assert left_out == ['1 results that only one group has']
  drawn, left_out = select_results(rows[-1:], 'top1')
  assert [row.protocol for row in drawn] == ['linear'] and not left_out
