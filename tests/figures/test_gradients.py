"""`clr-jax inspect gradients`: norms, the way along the gradient, the surface of a checkpoint."""

import math
import pathlib

import jax
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.experiment.build import build_experiment
from clr_jax.figures.analysis import loss_surface
from clr_jax.figures.drawing.draw import draw_figure
from clr_jax.figures.drawing.render_png import render_png
from clr_jax.figures.gradients import Probe, surface_figure
from clr_jax.rundir.checkpoint import Checkpoints
from clr_jax.rundir.reader import Run
from tests.cli.calling import call
from tests.evaluation.runs import one_device  # noqa: F401  (a fixture)
from tests.figures.run_files import read_csv, write_run

NORMS = {
  step: {f'telemetry/grad_norm/{group}': (i + 1.0) / step for i, group in enumerate(('a', 'b'))}
  for step in (4, 8, 12)
}
SMALL = {'points': 3, 'span': 0.5, 'etas': (0.0, 0.1, 1.0), 'batch_size': 16}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module')
def simclr(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp('runs') / 'simclr', NORMS, 'simclr', checkpoint=True)


def column(rows, name):
  return np.array([float(row[name]) for row in rows])


def nt_xent(z, tau):
  """SimCLR's loss of embeddings [B, 2, D], in numpy."""
  z = np.asarray(z, np.float64).transpose(1, 0, 2).reshape(-1, z.shape[-1])
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  logits = z @ z.T / tau
  np.fill_diagonal(logits, -np.inf)
  positive = np.roll(np.arange(len(z)), len(z) // 2)
  return (np.log(np.exp(logits).sum(1)) - logits[np.arange(len(z)), positive]).mean()


@pytest.mark.slow
def test_numbers_of_a_checkpoint(simclr, monkeypatch):
  opened, real = [], loss_surface.open_objective

  def keep(*args, **kwargs):
    opened.append(real(*args, **kwargs))
    return opened[0]

  monkeypatch.setattr(loss_surface, 'open_objective', keep)
  before = sorted(pathlib.Path(simclr).rglob('*'))
  written = draw_figure('gradients', [simclr], 'g.png', **SMALL)
  assert [p.name for p in written] == [
    f'g-{part}.{kind}' for part in ('norms', 'descent', 'surface') for kind in ('png', 'csv')
  ]
  assert sorted(pathlib.Path(simclr).rglob('*')) == before

  found = {(r['group'], int(r['step'])): float(r['norm']) for r in read_csv('g-norms.csv')}
  assert found == {(g, s): (i + 1.0) / s for s in (4, 8, 12) for i, g in enumerate('ab')}

  (objective,) = opened
  config = Run(simclr).config
  experiment = build_experiment(config)
  with Checkpoints(simclr, read_only=True) as checkpoints:
    state = checkpoints.restore(experiment.abstract_state)
  batch = loss_surface.fixed_batch(experiment, 16, 0)
  out, _ = jax.jit(experiment.plain.embed)(state.params, state.state, batch, jax.random.key(0), 0)
  loss = nt_xent(np.asarray(out.online), config.method.temperature)

  surface = read_csv('g-surface.csv')
  assert len(surface) == 9
  assert column(surface, 'x').tolist() == [-0.5, 0, 0.5] * 3
  assert column(surface, 'y').tolist() == [-0.5] * 3 + [0] * 3 + [0.5] * 3
  np.testing.assert_allclose(column(surface, 'loss')[4], loss, rtol=1e-4)
  assert np.ptp(column(surface, 'loss')) > 1e-3

  descent = read_csv('g-descent.csv')
  assert column(descent, 'eta').tolist() == [0, 0.1, 1]
  np.testing.assert_allclose(column(descent, 'loss')[0], loss, rtol=1e-4)
  assert column(descent, 'grad_difference')[0] == 0
  value, grads = objective.value_and_grad(objective.params)
  flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)])
  np.testing.assert_allclose(column(descent, 'grad_norm')[0], np.linalg.norm(flat), rtol=1e-5)
  moved = jax.tree.map(lambda w, g: w - 0.1 * g, objective.params, grads)
  there, changed = objective.value_and_grad(moved)
  np.testing.assert_allclose(column(descent, 'loss')[1], float(there), rtol=1e-5)
  difference = np.concatenate([np.ravel(g) for g in jax.tree.leaves(changed)]) - flat
  np.testing.assert_allclose(
    column(descent, 'grad_difference')[1], np.linalg.norm(difference), rtol=1e-3
  )
  assert float(there) < float(value)


def test_missing_parts_are_named_and_the_rest_is_drawn(simclr, tmp_path, capsys):
  plain = write_run(tmp_path / 'plain', {4: {'loss': 1.0}}, 'simclr')
  arguments = [f'--workdir={r}' for r in (simclr, plain, tmp_path / 'nothing')]
  assert call('inspect', 'gradients', *arguments, '--params.surface=False', '--params.etas=()') == 0
  out = capsys.readouterr().out
  assert 'plain has no telemetry' in out and 'nothing is not a run' in out
  assert {r['run'] for r in read_csv('gradients-norms.csv')} == {'simclr'}
  assert len(list(tmp_path.glob('*.png'))) == 1


def test_checkpoints_that_cannot_be_opened_leave_the_norms(tmp_path, capsys):
  started = write_run(
    tmp_path / 'started', {4: {**NORMS[4], 'telemetry/grad_norm/c': 0.0}}, 'simclr'
  )
  assert len(draw_figure('gradients', [started], 'g.png')) == 2
  assert 'has no checkpoint' in capsys.readouterr().out
  with pytest.raises(UserError, match='no checkpoint'):
    scores = write_run(tmp_path / 'scores', {4: {'telemetry/alignment': 1.0}}, 'simclr')
    draw_figure('gradients', [scores], 'h.png')
  with pytest.raises(UserError, match='not a run'):
    draw_figure('gradients', [str(tmp_path / 'nothing')], 'h.png')


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--params.points=4'], ['points=4', 'odd']),
    (['--params.span=0'], ['span=0']),
    (['--params.etas=0.1,-1'], ['etas', '-1']),
    (['--params.seed=-1'], ['seed=-1']),
    (['--params.pionts=3'], ['pionts', 'points']),
  ],
)
def test_bad_options_are_refused(tmp_path, capsys, nothing_compiles, arguments, words):
  run = write_run(tmp_path / 'a', NORMS)
  assert call('inspect', 'gradients', f'--workdir={run}', *arguments) == 2
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and all(word in err for word in words), err
  assert not list(tmp_path.glob('*.png'))


def test_losses_that_are_not_finite_are_left_gray():
  grid = np.array([[1.0, 2.0, math.inf], [3.0, 1.0, math.nan], [5.0, 90.0, 4.0]])
  figure = surface_figure([Probe('a', 3, [], grid)], np.linspace(-1, 1, 3))
  render_png(figure, 'g.png')
  assert [r['loss'] for r in read_csv('g-surface.csv')][2:6] == ['inf', '3.0', '1.0', 'nan']
  (mark,) = figure.panels[0].marks
  assert mark.limits == (1.0, 90.0) and figure.panels[0].note == 'loss 1 at the cross'
