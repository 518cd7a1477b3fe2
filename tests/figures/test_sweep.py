"""`clr-jax inspect sweep`: results against config keys, with intervals over seeds."""

import math

import numpy as np
import pytest
from scipy import stats

from clr_jax.core.errors import UserError
from clr_jax.figures.drawing.data import Grid, Line
from clr_jax.figures.drawing.draw import draw_figure
from clr_jax.figures.sweep import sweep
from clr_jax.rundir.reader import read_runs
from tests.figures.run_files import add_result, read_csv, write_run

TEMPERATURES, DIMS, SEEDS = (0.1, 0.5, 1), (8, 16), (0, 1)


def value(temperature, dim, seed):
  return 0.5 + 0.1 * temperature + 0.01 * dim + 0.02 * seed


@pytest.fixture(scope='module')
def directories(tmp_path_factory):
  folder, made = tmp_path_factory.mktemp('runs'), []
  for t in TEMPERATURES:
    for dim in DIMS:
      for seed in SEEDS:
        keys = {'method.temperature': float(t), 'method.out_dim': dim, 'seed': seed}
        made.append(write_run(folder / f't{t}-d{dim}-s{seed}', method='simclr', **keys))
        add_result(made[-1], 'knn', 'top1', value(t, dim, seed), {'k': 5, 'draw': 0})
        add_result(made[-1], 'knn', 'top1', 0.01, {'k': 5, 'draw': 0}, step=11)
        add_result(made[-1], 'knn', 'top1', 0.2, {'k': 5}, features='untrained')
  return made


def test_points_are_means_over_seeds_and_lines_are_other_keys(directories, tmp_path, capsys):
  out = tmp_path / 's.png'
  assert draw_figure('sweep', directories, str(out)) == [out, out.with_suffix('.csv')]
  rows = {(r['method.temperature'], r['method.out_dim']): r for r in read_csv(tmp_path / 's.csv')}
  assert len(rows) == 6
  row = rows['0.5', '16']
  values = [value(0.5, 16, seed) for seed in SEEDS]
  half = stats.t.ppf(0.975, 1) * stats.sem(values)
  assert float(row['top1_mean']) == pytest.approx(np.mean(values))
  assert float(row['half_interval_95']) == pytest.approx(half)
  assert (row['condition'], row['runs']) == ('kNN, k = 5', '2')
  said = capsys.readouterr().out.splitlines()
  assert said[0].split() == ['method.temperature', 'method.out_dim', 'kNN,', 'k', '=', '5']
  assert said[1].split() == ['0.1', '8', '60.00', '+-', '12.71', '%', '(n=2)']
  (panel,) = sweep(read_runs(directories)[0]).drawn[0].panels
  assert [line.name for line in panel.marks_of(Line)] == ['out_dim 8', 'out_dim 16']
  assert panel.x.label == 'method.temperature' and list(panel.x.ticks.values()) == [
    '0.1',
    '0.5',
    '1',
  ]
  assert panel.note == 'mean and 95 % interval over 2 seeds'
  np.testing.assert_allclose(panel.marks[0].y, [60, 64, 69])


def test_a_map_of_two_keys(directories):
  runs, _ = read_runs(directories)
  (panel,) = sweep(runs[:-2], kind='map', by='method.out_dim').drawn[0].panels
  (grid,) = panel.marks_of(Grid)
  np.testing.assert_allclose(grid.z, [[60, 68], [64, 72], [69, math.nan]])
  assert grid.numbers[0][0] == '60\n±13' and grid.numbers[2][1] == ''
  assert (panel.x.label, panel.y.label) == ('method.out_dim', 'method.temperature')


def test_keys_that_change_together_need_no_line(tmp_path):
  made = []
  for i, batch in enumerate((32, 64)):
    for method in ('simclr', 'sogclr'):
      keys = {'batch_size': batch, 'optimizer.learning_rate': 0.1 * batch}
      made.append(write_run(tmp_path / f'{method}{batch}', method=method, **keys))
      add_result(made[-1], 'knn', 'top1', 0.5 + 0.1 * i, {'k': 5})
  runs, _ = read_runs(made)
  (panel,) = sweep(runs).drawn[0].panels
  assert panel.x.label == 'batch_size'
  assert [line.name for line in panel.marks_of(Line)] == ['simclr', 'sogclr']
  assert panel.note == 'one seed'
  with pytest.raises(UserError, match=r'differ in .*method\.name.*name these keys, too'):
    sweep(runs, lines=('optimizer.learning_rate',))


def test_runs_that_differ_in_nothing_or_have_no_results(directories, tmp_path):
  runs, _ = read_runs(directories[:2])
  (panel,) = sweep(runs).drawn[0].panels
  assert list(panel.marks[0].y) == [60] and panel.x.label == ''
  new, _ = read_runs([write_run(tmp_path / 'new')])
  found = sweep(new)
  assert not found.drawn and 'new has no top1 of trained features' in found.missing[0]


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({'by': 'method.temprature'}, ['--params.by=method.temprature', 'method.temperature']),
    ({'by': 'batch_size'}, ['batch_size is the same in all runs', 'method.out_dim']),
    ({'lines': ('method.k1',)}, ['--params.lines=method.k1']),
    ({'metric': 'top9'}, ['top9', 'top1']),
    ({'kind': 'map', 'lines': ('method.temperature', 'method.out_dim')}, ['needs two keys']),
  ],
)
def test_keys_that_do_not_fit(directories, options, words):
  with pytest.raises(UserError) as refused:
    sweep(read_runs(directories)[0], **options)
  assert all(word in str(refused.value) for word in words)
