"""Figures by name: one file each, found without importing it."""

import inspect
import subprocess
import sys

import pytest

from clr_jax import figures
from clr_jax.core.errors import UserError
from clr_jax.figures.drawing.draw import draw_figure
from tests.figures.run_files import write_run


def test_names_are_those_of_the_files_and_import_none():
  code = (
    'import sys; from clr_jax import figures; print(*figures.names()); '
    'assert not {"jax", "matplotlib", "clr_jax.figures.curves"} & {*sys.modules}'
  )
  done = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True)
  assert done.stdout.split() == [
    *('accuracy', 'attention', 'checkpoints', 'compare', 'curves', 'embedding', 'few_label'),
    *('gradients', 'margins', 'operators', 'robustness', 'scores', 'sweep', 'trajectory'),
  ]


def test_figures_without_runs_are_those_whose_runs_have_a_default():
  functions = {name: figures.FIGURES.factory(name) for name in figures.names()}
  optional = [
    n for n, f in functions.items() if inspect.signature(f).parameters['runs'].default == ()
  ]
  assert optional == list(figures.WITHOUT_RUNS)


@pytest.mark.parametrize('name', sorted({*figures.names()} - {*figures.WITHOUT_RUNS}))
def test_options_have_defaults_and_a_figure_draws_runs(name, tmp_path):
  parameters = figures.parameters(name)
  assert parameters == figures.parameters(name)
  texts = figures.option_texts(name)
  assert {*parameters} <= texts.keys() and all(texts.values())
  if 'step' in parameters:  # a flag of its own
    assert parameters.step is None
  with pytest.raises(UserError, match='is not a run'):
    draw_figure(name, [str(tmp_path)], str(tmp_path / 'x.png'), **parameters)
  with pytest.raises(UserError, match='has no option'):
    draw_figure(name, [write_run(tmp_path / 'a')], str(tmp_path / 'x.png'), color=1)
  assert not list(tmp_path.glob('*.png'))
