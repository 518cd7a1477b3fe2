"""The figure of few labels: lines, means, intervals, and the records that do not count."""

import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.figures.drawing.draw import draw_figure
from clr_jax.figures.few_label import few_label, few_label_curves
from clr_jax.rundir import results
from clr_jax.rundir.reader import read_runs
from tests.figures.run_files import add_result, read_csv, write_run

VALUES = (0.5, 0.6, 0.55)
LBFGS = {'solver': 'lbfgs', 'label_fraction': 0.1}


def record(value, protocol='few_label', features='trained', **params):
  return {'protocol': protocol, 'features': features, 'value': value, 'params': params}


def test_lines_and_records_that_count():
  own = [record(v, **LBFGS, num_labels=8, draw=i) for i, v in enumerate(VALUES)]
  own += [record(0.9, **LBFGS, num_labels=200), record(0.1, 'knn', k=5)]
  again = [record(0.4, **LBFGS, num_labels=8, draw=0)]  # of records of one draw the last counts
  sgd = {'preset': 'tcl', 'num_labels': 8, 'draw': 0}
  best = [record(0.3, **sgd, selection='last'), record(0.8, **sgd, selection='best')]
  scratch = record(0.2, 'finetune', 'untrained', preset='small', num_labels=8, balanced=False)
  found = few_label_curves({'a': own, 'b': [*own, *again], 'c': own, 'd': [*best, scratch]})
  assert {name: [n for n, _ in curve] for name, curve in found.items()} == {
    'a, c: linear layer on trained features (lbfgs)': [8, 200],
    'b: linear layer on trained features (lbfgs)': [8, 200],
    'd: linear layer on trained features (tcl)': [8],
    'd: supervised from scratch (small, labels not balanced)': [8],
  }
  first, second, third, _ = found.values()
  half = 4.302652729911275 * np.std(VALUES, ddof=1) / np.sqrt(3)  # t(2), 97.5 %
  assert first[0][1] == pytest.approx((np.mean(VALUES), half, 3))
  assert (first[1][1].mean, first[1][1].n) == (0.9, 1) and np.isnan(first[1][1].half)
  assert second[0][1].mean == pytest.approx(0.55 - 0.1 / 3) and third[0][1].mean == 0.3


def test_figure_and_its_numbers(tmp_path, capsys, monkeypatch):
  runs = [write_run(tmp_path / name) for name in 'abc']
  for directory in runs[:2]:
    monkeypatch.setattr(results, 'now', lambda name=directory[-1]: f'2026-01-01 {name}')
    add_result(directory, 'few_label', 'top1', 0.1, {**LBFGS, 'num_labels': 8}, step=11)
    add_result(directory, 'few_label', 'top1', 0.7, {**LBFGS, 'num_labels': 16}, data=directory[-1])
  written = draw_figure('few_label', runs, str(tmp_path / 'new' / 'few.png'))
  assert [path.name for path in written] == ['few.png', 'few.csv']
  assert written[0].read_bytes().startswith(b'\x89PNG')
  (row,) = read_csv(written[1])  # the newest step, on the data of the newest record
  assert row['line'].startswith('b: linear layer') and float(row['top1_mean']) == 0.7
  assert (row['num_labels'], row['top1_half_interval_95'], row['draws']) == ('16', 'nan', '1')
  said = capsys.readouterr().out
  assert 'left out: c has no results with few labels' in said
  assert 'left out: a, whose results are of other data' in said
  with pytest.raises(UserError, match='first run clr-jax evaluate few-label'):
    draw_figure('few_label', runs[2:], str(tmp_path / 'none.png'))


def test_labels_of_the_log_axis_do_not_overlap(tmp_path):
  directory = write_run(tmp_path / 'a')
  for n in (10, 11, 100, 1000):
    add_result(directory, 'linear', 'top1', 0.5, {**LBFGS, 'num_labels': n})
  (figure,) = few_label(read_runs([directory])[0]).drawn
  assert list(figure.panels[0].x.ticks.values()) == ['10', '100', '1,000']
