"""The robustness figures: both conventions, families of corruptions, and what is left out."""

import numpy as np
import pytest
from PIL import Image

from clr_jax.core.errors import UserError
from clr_jax.figures.analysis.distances import paper_curve, robust_error
from clr_jax.figures.drawing.draw import draw_figure
from clr_jax.figures.drawing.palette import COLORS
from clr_jax.figures.drawing.render_png import render_png
from clr_jax.figures.robustness import attack_figure, attack_title, corruption_figure, robustness
from clr_jax.rundir.reader import read_runs
from tests.figures.run_files import add_result, read_csv, write_run

PLB = {'attack': 'plb_l2', 'norm': 'l2', 'num_images': 4, 'outer': 3, 'inner': 2}


def drawn_colors(path):
  pixels = np.asarray(Image.open(path).convert('RGB')).reshape(-1, 3)
  return {'#{:02X}{:02X}{:02X}'.format(*color) for color in np.unique(pixels, axis=0)}


def test_attack_and_its_numbers(tmp_path):
  distances = {
    'plain': np.array([0.0, 0.1, 0.2, 0.4]),
    'penalized': np.array([0.0, 0.0, 0.8, np.inf], np.float32),
    'hopeless': np.array([0.0, np.nan, np.inf]),
  }
  figure = attack_figure(distances, name='plb_l2', norm='l2', title='ProxLogBarrier')
  picture, data, summary = render_png(figure, str(tmp_path / 'new' / 'x.png'))
  assert [path.name for path in (picture, data, summary)] == [
    *('x-plb_l2.png', 'x-plb_l2.csv', 'x-plb_l2-summary.csv')
  ]
  assert drawn_colors(picture) >= set(COLORS[:2])
  rows = read_csv(data)
  assert len(rows) == 3 * 2 * 1000
  for name, own in distances.items():
    for convention in ('paper', 'robust_error'):
      mine = [r for r in rows if r['network'] == name and r['convention'] == convention]
      x, y = (np.array([float(r[key]) for r in mine]) for key in ('distance', 'share'))
      np.testing.assert_allclose(x, np.linspace(0, 0.8, 1000), rtol=1e-6)  # one grid for all
      expected = paper_curve(own, x[-1])[1] if convention == 'paper' else robust_error(own, x)
      np.testing.assert_allclose(y, expected)
  plain, penalized, hopeless = read_csv(summary)
  counts = ('fooled', 'clean_errors', 'never_fooled')
  assert [plain[key] for key in counts] == ['3', '1', '0']
  assert [penalized[key] for key in counts] == ['1', '2', '1']
  assert (hopeless['fooled'], hopeless['median']) == ('0', 'nan')
  told = figure.details['penalized'].replace('\n', ' ')
  for part in ('1 of 4 images fooled', '2 misclassified', '1 never fooled', 'median 0.8'):
    assert part in told


def test_corruptions_and_their_numbers(tmp_path):
  accuracy = {
    'one': {'fog': {1: 0.8, 5: 0.4}, 'snow': {5: 0.2, 1: 0.6}, 'spatter': {1: 0.1, 5: 0.1}},
    'two': {'fog': {1: 0.7, 5: 0.5}, 'snow': {1: 0.5, 5: 0.1}, 'spatter': {1: 0.1, 5: 0.1}},
  }
  figure = corruption_figure(accuracy, {'one': 0.9, 'two': 0.8}, title='corruptions')
  picture, data = render_png(figure, str(tmp_path / 'x.png'))
  assert drawn_colors(picture) >= set(COLORS[:2])
  rows = read_csv(data)
  table = {(r['network'], r['family'], int(r['severity'])): float(r['top1']) for r in rows}
  assert len(table) == len(rows) == 2 * 4 * 3
  assert table['one', 'snow', 5] == 0.2 and table['two', 'fog', 0] == 0.8
  # Without spatter, a validation family.
  np.testing.assert_allclose([table['one', 'mean', s] for s in (0, 1, 5)], [0.9, 0.7, 0.3])
  assert [panel.title for panel in figure.panels] == [
    *('mean without the † families', 'fog', 'snow', 'spatter †')
  ]


def test_runs_of_other_settings_and_lost_numbers_are_left_out(tmp_path, capsys):
  runs = [write_run(tmp_path / name) for name in ('a', 'other', 'lost', 'untrained', 'none')]
  distances = {'distance': np.array([0.0, 0.5, 1.0, np.inf])}
  other = {**PLB, 'outer': 9}
  keys = 'robustness', 'median_distance', 0.5
  add_result(runs[1], *keys, other, arrays=distances)
  add_result(runs[2], *keys, PLB)
  add_result(runs[3], *keys, PLB, arrays=distances, features='untrained')
  add_result(runs[0], *keys, {**PLB, 'head': 'own'}, arrays=distances)  # a head is no setting
  written = draw_figure('robustness', runs, str(tmp_path / 'x.png'))
  assert written[0].name == 'x-plb_l2.png'
  names = [row['network'] for row in read_csv(tmp_path / 'x-plb_l2-summary.csv')]
  assert sorted(names) == ['a', 'untrained, untrained']
  said = capsys.readouterr().out
  assert 'left out: plb_l2: other, measured with other settings' in said
  assert 'left out: plb_l2: lost, whose numbers are lost' in said
  with pytest.raises(UserError, match='no attack was measured'):
    draw_figure('robustness', runs[4:], str(tmp_path / 'x.png'))
  assert not robustness(read_runs(runs[2:3])[0]).drawn


def test_title_has_the_settings():
  title = attack_title('pgd_l2', {'steps': 7, 'epsilons': [0.1, 0.25], 'num_images': 60})
  assert title == 'pgd_l2 (steps 7, budgets 0.1, 0.25), 60 images'
