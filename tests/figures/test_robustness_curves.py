"""The two conventions of robustness curves, and the figures."""

import csv

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from PIL import Image

from clr_jax.core.errors import UserError
from clr_jax.figures import plots, robustness_curves
from clr_jax.figures.robustness_curves import paper_curve, robust_error, summary

DISTANCE = strategies.one_of(
  strategies.sampled_from([0.0, np.inf, np.nan, 0.5]), strategies.floats(1e-6, 10)
)
DISTANCES = strategies.lists(DISTANCE, min_size=1, max_size=30)
few = hypothesis.settings(max_examples=60, deadline=None)


@few
@hypothesis.given(DISTANCES, strategies.lists(strategies.floats(0, 20), min_size=1, max_size=10))
def test_robust_error_counts_all_images_and_never_failures(distances, eps):
  eps = np.sort(eps)
  error = robust_error(distances, eps)
  by_hand = [np.mean([np.isfinite(d) and d <= e for d in distances]) for e in eps]
  np.testing.assert_allclose(error, by_hand)
  assert (np.diff(error) >= 0).all()
  assert robust_error(distances, 0) == np.mean(np.array(distances) == 0)
  assert robust_error(distances, np.inf) == np.isfinite(distances).mean()
  failed = robust_error([*distances, np.inf, np.nan], eps) * (len(distances) + 2)
  np.testing.assert_allclose(failed, error * len(distances))


@few
@hypothesis.given(DISTANCES, strategies.floats(0.1, 20))
def test_paper_curve_ignores_failures_and_clean_errors(distances, x_max):
  x, y, kept = paper_curve(distances, x_max, points=41)
  again = paper_curve([*distances, 0.0, np.inf, np.nan], x_max, points=41)
  for a, b in zip((x, y, kept), again, strict=True):
    np.testing.assert_array_equal(a, b)
  inside = [d for d in distances if np.isfinite(d) and d > 0]
  np.testing.assert_array_equal(kept, sorted(inside))
  np.testing.assert_allclose(x, np.linspace(0, x_max, 41))
  if inside:
    np.testing.assert_allclose(y, [np.mean([d < at for d in inside]) for at in x])
  else:
    assert np.isnan(y).all()


def test_paper_curve_is_strict_and_ends_at_the_largest_distance():
  x, y, kept = paper_curve([0.0, 1.0, 2.0, 4.0, np.inf], points=5)
  np.testing.assert_array_equal(x, [0, 1, 2, 3, 4])
  np.testing.assert_allclose(y, [0, 0, 1 / 3, 2 / 3, 2 / 3])
  np.testing.assert_array_equal(kept, [1, 2, 4])
  assert len(paper_curve([1.0])[0]) == 1000


def test_robust_error_compares_in_the_precision_of_the_distances():
  distances = np.array([0.1, 0.3], np.float32)  # float32(0.1) is above 0.1
  np.testing.assert_array_equal(robust_error(distances, [[0.1], [0.3]]), [[0.5], [1.0]])


@few
@hypothesis.given(DISTANCES)
def test_summary_counts_every_image_once(distances):
  s = summary(distances)
  assert s.total == len(distances) == s.clean_errors + s.failures + s.kept
  kept = paper_curve(distances)[2]
  assert s.kept == len(kept) and s.clean_errors == distances.count(0)
  if s.kept:
    np.testing.assert_allclose([s.median, s.mean, s.max], [np.median(kept), kept.mean(), kept[-1]])
  else:
    assert np.isnan([s.median, s.mean, s.max]).all()


@pytest.mark.parametrize('function', [summary, paper_curve, lambda d: robust_error(d, 0.1)])
def test_bad_distances_are_refused(function):
  for wrong, sentence in (
    ([], 'list of distances'),
    ([[1.0]], 'list of'),
    ([1.0, -1.0], 'negative'),
  ):
    with pytest.raises(UserError, match=sentence):
      function(wrong)


def read(path):
  with open(path) as file:
    return list(csv.DictReader(file))


def drawn_colours(path):
  pixels = np.asarray(Image.open(path).convert('RGB')).reshape(-1, 3)
  return {'#{:02X}{:02X}{:02X}'.format(*colour) for colour in np.unique(pixels, axis=0)}


def test_figure_and_its_data(tmp_path):
  curves = {
    'plain': np.array([0.0, 0.1, 0.2, 0.4]),
    'penalised': np.array([0.0, 0.0, 0.8, np.inf], np.float32),
    'hopeless': np.array([0.0, np.nan, np.inf]),
  }
  out = tmp_path / 'new' / 'plb.png'
  data = robustness_curves.draw(curves, str(out), norm='l2', attack='ProxLogBarrier')
  assert drawn_colours(out) >= set(plots.COLOURS[:3])
  rows = read(data)
  assert len(rows) == 3 * 2 * 1000
  for name, distances in curves.items():
    for convention in ('paper', 'robust_error'):
      own = [r for r in rows if r['network'] == name and r['convention'] == convention]
      x, y = (np.array([float(r[key]) for r in own]) for key in ('distance', 'share'))
      np.testing.assert_allclose(x, np.linspace(0, 0.8, 1000), rtol=1e-6)  # one grid for all
      expected = paper_curve(distances, x[-1])[1] if convention == 'paper' else None
      np.testing.assert_allclose(y, robust_error(distances, x) if expected is None else expected)
  (plain, penalised, hopeless) = read(out.with_name('plb_summary.csv'))
  assert (plain['kept'], plain['clean_errors'], plain['failures']) == ('3', '1', '0')
  assert (penalised['kept'], penalised['clean_errors'], penalised['failures']) == ('1', '2', '1')
  assert (hopeless['kept'], hopeless['median']) == ('0', 'nan')
  robustness_curves.draw({'hopeless': curves['hopeless']}, str(out), norm='l0', attack='none works')


def test_the_text_of_a_curve_says_what_is_left_out():
  text = robustness_curves._sentence('net', summary([0.0, 0.0, 0.25, np.inf]))
  for part in ('1 of 4 images fooled', '2 misclassified', '1 never fooled', 'median 0.25'):
    assert part in text.replace('\n', ' ')


def test_corruption_figure_and_its_data(tmp_path):
  accuracy = {
    'one': {'fog': {1: 0.8, 5: 0.4}, 'snow': {5: 0.2, 1: 0.6}},
    'two': {'fog': {1: 0.7, 5: 0.5}, 'snow': {1: 0.5, 5: 0.1}},
  }
  out = tmp_path / 'corruptions.png'
  clean = {'one': 0.9, 'two': 0.8}
  rows = read(robustness_curves.draw_corruptions(accuracy, str(out), clean=clean))
  assert drawn_colours(out) >= set(plots.COLOURS[:2])
  table = {(r['network'], r['family'], int(r['severity'])): float(r['top1']) for r in rows}
  assert len(table) == len(rows) == 2 * 3 * 3
  assert table['one', 'snow', 5] == 0.2 and table['two', 'fog', 0] == 0.8
  np.testing.assert_allclose([table['one', 'mean', s] for s in (0, 1, 5)], [0.9, 0.7, 0.3])


def test_what_cannot_be_drawn_is_refused(tmp_path):
  out = str(tmp_path / 'x.png')
  with pytest.raises(UserError, match='no curve'):
    robustness_curves.draw({}, out, norm='l2', attack='pgd')
  with pytest.raises(UserError, match="norm 'l3'"):
    robustness_curves.draw({'a': [1.0]}, out, norm='l3', attack='pgd')
  with pytest.raises(UserError, match='no network'):
    robustness_curves.draw_corruptions({}, out, clean={})
  uneven = {'a': {'fog': {1: 0.5}}, 'b': {'snow': {1: 0.5}}}
  with pytest.raises(UserError, match='b has other families'):
    robustness_curves.draw_corruptions(uneven, out, clean={'a': 1.0, 'b': 1.0})
  with pytest.raises(UserError, match='different severities'):
    robustness_curves.draw_corruptions(
      {'a': {'fog': {1: 0.5}, 'snow': {2: 0.5}}}, out, clean={'a': 1.0}
    )
