"""`clr-jax inspect margins`: gradients and factors of the margins paper, without a run."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.figures.drawing.data import Line
from clr_jax.figures.margins import margins, slopes
from tests.cli.calling import call
from tests.figures.run_files import read_csv


def test_gradients_are_those_of_eq_10(x64):
  theta, p = jnp.array([0.1, 1.0, 2.5]), jnp.array([0.05, 0.5, 0.99])
  positive, negative = slopes(theta, p, 0.25)
  np.testing.assert_allclose(positive, (1 - p) * np.sin(theta) / 0.25, rtol=1e-9)
  np.testing.assert_allclose(negative, -p * np.sin(theta) / 0.25, rtol=1e-9)


@pytest.mark.slow
def test_a_figure_without_runs(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert call('inspect', 'margins', '--params.angular=0.5', '--params.subtractive=()') == 0
  assert capsys.readouterr().out.split() == [
    f'margins-{name}.{kind}' for name in ('gradient', 'factors') for kind in ('png', 'csv')
  ]
  rows = [row for row in read_csv('margins-factors.csv') if row['panel'].startswith('sin')]
  assert {row['line'] for row in rows} == {'m1 = 0.5'}
  for row in rows[::20]:
    theta = math.radians(float(row['x']))
    expected = math.sin(theta + 0.5) / math.sin(theta)
    assert float(row['value']) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_every_option_has_its_lines():
  gradient, factors = margins(angles=(20.0, 70.0), probabilities=(0.3,)).drawn
  names = [[line.name for line in panel.marks_of(Line)] for panel in gradient.panels]
  assert names == [['p = 0.3'], *[['θ = 20°', 'θ = 70°']] * 2]
  assert [panel.note for panel in factors.panels][1:] == ['p = 0.3', 'θ = 70°', 'p = 0.3']
  assert all(len(panel.marks) == 4 for panel in factors.panels)


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['curves'], ['--workdir must be given: inspect curves draws runs']),
    (['margins', '--params.angular=4'], ['angular', '4']),
    (['margins', '--params.angles=()'], ['angles']),
    (['margins', '--params.probabilities=1'], ['probabilities', '1']),
  ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, words):
  monkeypatch.chdir(tmp_path)
  assert call('inspect', *arguments) == 2
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and all(word in err for word in words), err
  assert not any(tmp_path.iterdir())
