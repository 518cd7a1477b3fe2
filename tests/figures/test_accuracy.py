"""Accuracy by protocol, and the sentence about by how much training helped."""

import numpy as np
import pytest

from clr_jax.core.intervals import interval
from clr_jax.figures.accuracy import accuracy, verdict
from clr_jax.rundir.reader import Run
from tests.figures.run_files import add_result, write_run


def result(value, features='trained', protocol='knn', metric='top1', step=2, **params):
  params = params or {'k': 5, 'temperature': 0.1}
  return (protocol, metric, value, params), {'step': step, 'features': features}


def linear(value, features, draw, fraction=0.1):
  return result(
    value, features, 'linear', label_fraction=fraction, num_labels=20, draw=draw, solver='lbfgs'
  )


@pytest.fixture
def runs(tmp_path):
  def make(name, results):
    directory = write_run(tmp_path / name)
    for positional, named in results:
      add_result(directory, *positional, **named)
    return Run(directory)

  return make


DRAWS = {'trained': (0.8, 0.82, 0.84), 'untrained': (0.5, 0.6, 0.7), 'pixels': (0.7, 0.8, 0.9)}


def test_points_and_sentence(runs):
  records = [linear(v, kind, i) for kind, own in DRAWS.items() for i, v in enumerate(own)]
  records += [result(v, kind) for kind, v in (('trained', 0.9), ('untrained', 0.8))]
  records += [result(0.1, step=1), result(0.3, metric='loss'), result(0.95, 'pixels')]
  run = runs('a', records)
  found = accuracy([run])
  (figure,) = found.drawn
  (panel,) = figure.panels
  ticks = [*panel.y.ticks.values()]
  assert ticks == ['linear, 10 % of labels (20)', 'kNN, k = 5'] and panel.y.reversed
  lines = {line.name: line for line in panel.marks}
  assert {*lines} == {*DRAWS} and not any(line.joined for line in lines.values())
  expected = interval(DRAWS['pixels'])
  np.testing.assert_allclose(lines['pixels'].x, [100 * expected.mean, 95])
  np.testing.assert_allclose(lines['pixels'].x_half, [100 * expected.half, np.nan])
  assert len({tuple(np.round(line.y, 6)) for line in lines.values()}) == 3  # none hides another
  assert (
    found.text
    == verdict(run)
    == (
      'a: Training raised 1 of 2 accuracies clearly above the untrained network, by at most 10.0 '
      'points (the others: linear, 10 % of labels (20): +22.0 points). Training did not raise any '
      'accuracy clearly above raw pixels (linear, 10 % of labels (20): +2.0 points; kNN, k = 5: '
      '-5.0 points).'
    )
  )


def test_clear_gains_and_one_condition(runs):
  both = [result(0.9), result(0.5, 'untrained'), result(0.4, 'pixels')]
  other = [linear(v, k, None) for k, v in (('trained', 0.8), ('untrained', 0.6))]
  assert verdict(runs('a', both + other)) == (
    'a: Training raised all 2 accuracies above the untrained network, by 20.0 to 40.0 points. '
    'Training raised the accuracy (kNN, k = 5) by 50.0 points above raw pixels.'
  )
  assert verdict(runs('b', [result(0.3), result(0.4, 'pixels')])) == (
    'b: Training did not raise the accuracy (kNN, k = 5) above raw pixels (-10.0 points).'
  )


def test_without_results_or_baselines(runs):
  empty, alone = runs('empty', []), runs('alone', [result(0.9)])
  assert not accuracy([empty]).drawn and 'clr-jax evaluate' in accuracy([empty]).missing[-1]
  found = accuracy([empty, alone])
  assert found.text == '' and found.missing == ['empty has no accuracies'] and found.drawn
