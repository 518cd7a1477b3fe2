"""Panels over training: which metrics they have, their names and their looks."""

import pytest

from clr_jax.core.errors import UserError
from clr_jax.figures.curves import curves
from clr_jax.figures.drawing.draw import draw_figure
from clr_jax.figures.drawing.metric_panels import (
  METRIC_PANELS,
  is_telemetry,
  metric_panels,
  series_panels,
  unchanging,
  with_telemetry,
)
from clr_jax.figures.drawing.palette import COLORS
from clr_jax.rundir.reader import read_runs
from tests.figures.run_files import write_run

ROW = {
  'loss': 2.0,
  'probe_top1': 0.1,
  'train_top1': 0.2,
  'telemetry/steps': 1.0,
  'telemetry/log_u_mean': 1.0,
  'telemetry/log_u_std': 0.1,
  'telemetry/grad_norm/backbone': 3.0,
  'telemetry/neg_hist': [1.0, 2.0],
  'novelty': 5.0,
}


@pytest.fixture
def runs(tmp_path):
  later = {k: v / 2 for k, v in ROW.items() if isinstance(v, float)}
  rows = {4: ROW, 8: {**later, 'loss': float('nan'), 'telemetry/grad_norm/backbone': 0.01}}
  directories = [write_run(tmp_path / 'a', rows), write_run(tmp_path / 'b', {4: {'loss': 1.0}})]
  return read_runs(directories)[0]


def test_a_metric_is_in_one_panel():
  metrics = [name for panel in METRIC_PANELS for name in panel.metrics]
  assert len(metrics) == len(set(metrics))


def test_every_number_of_a_run_has_a_panel(runs):
  panels = metric_panels(runs)
  drawn = {panel.title for panel in series_panels(runs, panels)}
  assert drawn == {
    *('Loss', 'Accuracy on the training views', 'novelty', 'Gradient norm: backbone'),
    *('Table log_u: mean of the batch', 'Table log_u: spread in the batch'),
  }
  assert {panel.title for panel in panels if is_telemetry(panel)} > {'Gradient norm: backbone'}


def test_what_never_changes_is_said_and_not_drawn(tmp_path):
  once = {'loss': 2.0, 'online_knn_top1': 0.5, 'novelty': 5.0}
  runs, _ = read_runs([write_run(tmp_path / 'a', {4: once, 8: {'loss': 1.0, 'novelty': 5.0}})])
  panels = metric_panels(runs)
  (loss,) = series_panels(runs, panels)
  assert loss.title == 'Loss' and loss.x.whole
  assert unchanging(runs, panels) == [
    *('Online kNN accuracy, which is 50 at step 4', 'novelty, which is 5 throughout')
  ]
  constant = [panel for panel in panels if panel.title == 'novelty']
  assert len(series_panels(runs, constant)) == 1 and not unchanging(runs, constant)


def test_no_curve_has_a_single_point(tmp_path):
  rows = {'a': 0.5, 'b': 0.25}
  directories = [write_run(tmp_path / k, {4: {'rankme': v}}) for k, v in rows.items()]
  runs, _ = read_runs(directories)
  panels = metric_panels(runs)
  assert not series_panels(runs, panels)
  assert unchanging(runs, panels) == [
    'Effective rank (collapse monitor), which is a: 0.5 at step 4, b: 0.25 at step 4'
  ]


def test_names_and_looks_of_lines(runs):
  found = {panel.title: panel for panel in series_panels(runs, metric_panels(runs))}
  assert [(line.name, line.look) for line in found['Loss'].marks] == [('a', 0), ('b', 1)]
  assert [(line.name, line.look) for line in found['Accuracy on the training views'].marks] == [
    *(
      ('a: online probe', 0),
      ("a: the method's own classifier", len(COLORS)),
    ),  # a dash is a metric
  ]
  norm = found['Gradient norm: backbone']
  assert norm.y.log and norm.marks[0].y == [3.0, 0.01] and not found['Loss'].y.log
  alone = {panel.title: panel for panel in series_panels(runs[:1], metric_panels(runs))}
  assert [(line.name, line.look) for line in alone['Loss'].marks] == [('a', 0)]
  assert [(line.name, line.look) for line in alone['Accuracy on the training views'].marks] == [
    *(('online probe', 0), ("the method's own classifier", 1)),  # and so is a color
  ]


def test_runs_with_telemetry(runs):
  measured, missing = with_telemetry(runs)
  assert [run.name for run in measured] == ['a']
  assert len(missing) == 1 and 'b has no telemetry: train with --config.telemetry' in missing[0]


def test_curves(runs, tmp_path):
  (figure,), missing, _ = curves(runs)
  assert [panel.title for panel in figure.panels] == ['Loss'] and not missing
  rows = [row[:3] for row in figure.tables[''].rows]
  assert rows == [('a', 'loss', 4), ('a', 'loss', 8), ('b', 'loss', 4)]
  found = curves(read_runs([write_run(tmp_path / 'begun')])[0])
  assert not found.drawn and 'begun has no metrics that can be read' in found.missing[0]


def test_curves_of_a_single_row(tmp_path):
  directory = write_run(tmp_path / 'one', {4: {'loss': 0.5}})
  with pytest.raises(
    UserError, match=r'^there is no curve \(Loss, which is 0\.5 at step 4\): log more'
  ):
    draw_figure('curves', [directory], str(tmp_path / 'x.png'))
  directory = write_run(tmp_path / 'other', {4: {'novelty': 5.0}})
  with pytest.raises(UserError, match='there are no numbers for inspect curves'):
    draw_figure('curves', [directory], str(tmp_path / 'x.png'))
