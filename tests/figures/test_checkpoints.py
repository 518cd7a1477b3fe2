"""`clr-jax inspect checkpoints`: scores and gradients of kept checkpoints, without telemetry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.experiment.build import build_experiment
from clr_jax.figures import checkpoints as module
from clr_jax.figures.analysis.loss_surface import open_objective
from clr_jax.figures.analysis.offline import Measured, layer_norms, measure_checkpoints
from clr_jax.figures.checkpoints import checkpoints
from clr_jax.figures.drawing.data import Grid, Line
from clr_jax.figures.drawing.render_png import render_png
from clr_jax.rundir.reader import read_runs
from tests.evaluation.runs import one_device  # noqa: F401  (a fixture)
from tests.figures.run_files import read_csv, write_run


def test_norms_of_layers():
  grads = {
    'backbone': {'conv': {'kernel': jnp.full([2, 2], 2.0)}, 'norm': {'scale': jnp.ones(3)}},
    'head': {'dense': {'kernel': jnp.zeros([1, 3]), 'bias': jnp.full(4, 3.0)}},
  }
  found = {name: float(norm) for name, norm in layer_norms(grads).items()}
  assert found == {'backbone/conv': 4.0, 'head/dense': 6.0}


@pytest.fixture
def measured(monkeypatch):
  """Numbers in place of the measurement; returns the steps that were asked for."""
  asked = []

  def measure(run, steps, *, batch_size, seed):
    asked.append((run.name, list(steps), batch_size, seed))
    if run.name == 'lost':
      raise UserError('its images are gone: restore them')
    return [
      Measured(step, {'loss': 2.0, 'neg_mean': step / 100}, {'conv': 1.0, 'dense': step + 1.0})
      for step in steps
    ]

  monkeypatch.setattr(module, 'measure_checkpoints', measure)
  return asked


def test_panels_of_several_runs(tmp_path, measured):
  for name in ('a', 'b', 'lost'):
    write_run(tmp_path / name, method='simclr')
    for step in range(0, 44, 4):
      (tmp_path / name / 'checkpoints' / str(step)).mkdir(parents=True)
  write_run(tmp_path / 'new')
  runs, _ = read_runs([str(tmp_path / name) for name in ('a', 'b', 'lost', 'new')])
  found = checkpoints(runs, most=3, seed=7)
  assert measured[0] == ('a', [0, 20, 40], None, 7)
  assert found.missing[0] == 'checkpoints of lost: its images are gone: restore them'
  assert 'new has no checkpoint' in found.missing[1]
  scores, gradients = found.drawn
  (panel,) = scores.panels  # without the loss, which is constant here
  assert panel.title == 'Mean of negative scores'
  assert [line.name for line in panel.marks_of(Line)] == ['a', 'b']
  assert list(panel.marks[0].y) == [0, 0.2, 0.4]
  (grid,) = gradients.panels[0].marks_of(Grid)
  np.testing.assert_allclose(grid.z[1], np.log10([1, 21, 41]))
  assert list(gradients.panels[0].y.ticks.values()) == ['conv', 'dense']
  for figure in found.drawn:
    render_png(figure, str(tmp_path / 'c.png'))
  assert len(read_csv(tmp_path / 'c-gradients.csv')) == 2 * 2 * 3


@pytest.mark.weekly
def test_numbers_of_a_checkpoint(tmp_path):
  """The loss and the gradient of `inspect gradients`, and the scores of the loss."""
  (run,), _ = read_runs([write_run(tmp_path / 'a', method='simclr', checkpoint=True)])
  (found,) = measure_checkpoints(run, [0], batch_size=16)
  objective = open_objective(run, batch_size=16)
  value, grads = objective.value_and_grad(objective.params)
  assert found.step == 0 and found.scores['loss'] == pytest.approx(float(value), rel=1e-5)
  expected = {name: float(norm) for name, norm in layer_norms(grads).items()}
  assert found.norms.keys() == expected.keys() and len(expected) > 5
  np.testing.assert_allclose(
    [found.norms[k] for k in expected], list(expected.values()), rtol=1e-3, atol=1e-7
  )
  experiment = build_experiment(run.config)
  assert experiment.plain.scores is not None and -1 <= found.scores['neg_mean'] <= 1
  # SimCLR's positive score is the cosine of the two views, which alignment is 2 - 2 times.
  np.testing.assert_allclose(found.scores['alignment'], 2 - 2 * found.scores['pos_mean'], rtol=1e-4)
  assert not jax.tree.leaves(run.metrics)
