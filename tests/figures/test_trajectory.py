"""`clr-jax inspect trajectory`: a protocol at all kept checkpoints of several runs."""

import pathlib

import pytest

from clr_jax.core.errors import UserError
from clr_jax.evaluation.over_steps import evaluate_steps
from clr_jax.evaluation.runner import evaluate_workdir
from clr_jax.figures import trajectory as module
from clr_jax.figures.drawing.data import Line
from clr_jax.figures.drawing.draw import draw_figure
from clr_jax.figures.trajectory import trajectory
from clr_jax.rundir.reader import read_runs
from tests.evaluation.runs import one_device  # noqa: F401  (a fixture)
from tests.figures.run_files import add_result, read_csv, write_run

STEPS = (11, 22, 44)  # 22 an epoch


def value(seed, step):
  return 0.5 + 0.1 * seed + step / 1000


@pytest.fixture
def directories(tmp_path):
  made = []
  for name, seed, temperature in (('a_s0', 0, 0.5), ('a_s1', 1, 0.5), ('b', 0, 0.1)):
    keys = {'seed': seed, 'method.temperature': temperature}
    made.append(write_run(tmp_path / name, method='simclr', images=1437, **keys))
    for step in STEPS:
      (tmp_path / name / 'checkpoints' / str(step)).mkdir(parents=True)
      add_result(made[-1], 'knn', 'top1', value(seed, step), {'k': 5}, step=step)
      add_result(made[-1], 'linear', 'top1', 0.1, {'label_fraction': 1.0}, step=step)
  return made


def test_lines_over_epochs(directories, tmp_path):
  out = tmp_path / 't.png'
  written = draw_figure('trajectory', directories, str(out), measure=False)
  assert written == [out, out.with_suffix('.csv')]
  (panel,) = trajectory(read_runs(directories)[0], measure=False).drawn[0].panels
  both, alone = panel.marks_of(Line)
  assert (both.name, alone.name, panel.x.label) == ('a (2 runs)', 'b', 'epoch')
  assert list(both.x) == [0.5, 1, 2]
  assert list(both.y) == pytest.approx([56.1, 57.2, 59.4])
  rows = [row for row in read_csv(tmp_path / 't.csv') if row['group'] == 'a (2 runs)']
  assert [(row['step'], row['epoch'], row['n']) for row in rows] == [
    *(('11', '0.5', '2'), ('22', '1.0', '2'), ('44', '2.0', '2')),
  ]


def test_all_kept_checkpoints_are_measured(directories, monkeypatch):
  asked = []

  def measure(config, directory, protocol, options, steps):
    asked.append((pathlib.Path(directory).name, protocol, options['k'], steps))
    (run,), _ = read_runs([directory])
    return run.results

  monkeypatch.setattr(module, 'evaluate_steps', measure)
  assert trajectory(read_runs(directories)[0]).drawn
  assert asked == [(name, 'knn', 5, list(STEPS)) for name in ('a_s0', 'a_s1', 'b')]


def test_missing_parts_are_said(directories, monkeypatch, tmp_path):
  def refuse(*_):
    raise UserError('its images are gone: restore them')

  monkeypatch.setattr(module, 'evaluate_steps', refuse)
  found = trajectory(read_runs(directories)[0])
  assert found.drawn and found.missing[0] == (
    'checkpoints of a_s0: its images are gone: restore them'
  )
  new, _ = read_runs([write_run(tmp_path / 'new')])
  found = trajectory(new)
  assert not found.drawn and 'keeps 0 checkpoints' in found.missing[0]
  with pytest.raises(UserError, match=r"unknown protocol 'knm': did you mean 'knn'"):
    trajectory(new, protocol='knm')


@pytest.mark.slow
def test_steps_are_measured_as_evaluate_does(tmp_path):
  directory = write_run(tmp_path / 'a', method='simclr', checkpoint=True)
  (run,), _ = read_runs([directory])
  (record,) = evaluate_steps(run.config, directory, 'knn', {'k': 5}, [0])
  (again,) = evaluate_workdir(run.config, directory, 'knn', {'k': 5}, ['trained'])
  assert again == record and (record['step'], record['metric']) == (0, 'top1')
  with pytest.raises(UserError, match='no checkpoint 7'):
    evaluate_steps(run.config, directory, 'knn', {'k': 5}, [7])
