"""Verdicts and statistics against independent formulas."""

import math

import numpy as np
import pytest
from scipy import stats

from clr_jax.core.intervals import interval
from clr_jax.studies import comparison, tables
from clr_jax.studies.ledger import Entry

SEEDS = (0, 1, 2, 3)
BASE = (80.0, 81.0, 79.5, 80.5)


def entries(row, values, data='cifar10', table='sogclr-1'):
  blank = dict.fromkeys(Entry._fields, '')
  return [
    Entry(**{**blank, 'table': table, 'row': row, 'data': data, 'seed': seed, 'value': value / 100})
    for seed, value in zip(SEEDS, values, strict=False)
  ]


def difference(ours):
  table = tables.table('sogclr-1')
  cells = tables.cells('sogclr-1', rows=['moco'], data=['cifar10'])
  published = tables.cells('sogclr-1')
  found = entries('sogclr', BASE) + entries('moco', ours)
  (one,) = comparison.differences(table, cells, published, found)
  return one


def test_differences_are_paired_by_seed():
  ours = (80.6, 81.4, 80.0, 81.1)
  found = difference(ours)
  pairs = np.subtract(ours, BASE)
  low, high = stats.t.interval(0.95, 3, pairs.mean(), stats.sem(pairs))
  np.testing.assert_allclose(found.ours.mean, pairs.mean())
  np.testing.assert_allclose(2 * found.ours.half, high - low)
  assert found.published == pytest.approx(89.87 - 89.36) and found.verdict == 'confirmed'


@pytest.mark.parametrize(
  ('ours', 'verdict'),
  [
    ((79.4, 80.6, 79.0, 79.9), 'contradicted'),
    ((80.9, 80.2, 79.9, 80.6), 'undecided: the interval contains zero'),
    ((80.9,), 'undecided: one seed'),
    (tuple(value + 1 for value in BASE[:2]), 'undecided: no spread between the seeds'),
    ((), 'not run'),
  ],
)
def test_only_an_interval_without_zero_decides(ours, verdict):
  assert difference(ours).verdict == verdict


def test_a_published_difference_with_an_open_setting_is_not_comparable():
  rows = tables.cells('sogclr-1', rows=['noise-variance8'], data=['cifar10'])
  found = entries('sogclr', BASE) + entries('noise-variance8', (60.0, 61.0, 60.5, 59.0))
  known, published = tables.table('sogclr-1'), tables.cells('sogclr-1')
  (one,) = comparison.differences(known, rows, published, found)
  assert one.verdict == f'not comparable: {rows[0].note}' and one.published < -18
  assert one._replace(note='').verdict == 'confirmed'


@pytest.mark.parametrize(('size', 'deviation'), [(1.0, 0.5), (0.5, 1.0), (0.3, 0.9)])
def test_so_many_seeds_find_the_difference(size, deviation):
  n = comparison.seeds_needed(size, deviation)

  def power(n):
    critical = stats.t.ppf(0.975, n - 1)
    return stats.nct.sf(critical, n - 1, size / deviation * math.sqrt(n))

  assert power(n + 1) > 0.8 and power(n - 1) < 0.83


def test_a_claim_compares_several_rows_on_common_seeds():
  table, cells = tables.table('sogclr-batch'), tables.cells('sogclr-batch', scale='small')
  made = {
    'simclr-256': (50.0, 51.0, 52.0),
    'simclr-32': (45.0, 45.5, 47.5),
    'sogclr-256': (50.0, 50.5, 52.0, 70.0),
    'sogclr-32': (49.0, 50.0, 51.0),
  }
  found = [e for row, own in made.items() for e in entries(row, own, table='sogclr-batch')]
  *_, last = comparison.differences(table, cells, tables.cells('sogclr-batch'), found)
  pairs = np.array([4.0, 5.0, 3.5])
  np.testing.assert_allclose(last.ours, interval(list(pairs)))
  assert last.claim.stated and math.isnan(last.published) and last.verdict == 'confirmed'
  assert last.seeds_needed == comparison.seeds_needed(pairs.mean(), pairs.std(ddof=1))
  swapped = last._replace(ours=last.ours._replace(mean=-last.ours.mean))
  assert swapped.verdict == 'contradicted'
  two = [cell for cell in cells if cell.row.startswith('sogclr')]
  texts = [item.claim.text for item in comparison.differences(table, two, [], found)]
  assert len(texts) == 3 and not any('SogCLR' in text for text in texts)  # no claim without SimCLR


def test_no_number_of_seeds_finds_no_difference():
  assert comparison.seeds_needed(0.0, 1.0) is None
  assert comparison.seeds_needed(math.nan, 1.0) is None
  assert comparison.seeds_needed(1e-3, 1.0) is None


def test_an_accuracy_agrees_within_both_intervals():
  cell = tables.cells('tcl-A.1.5', rows=['supcon'])[0]  # 74.79 +- 0.23

  def verdict(values, cell=cell):
    return comparison.verdict(cell, interval(values) if values else None)

  assert verdict([74.5, 74.6, 74.7]) == 'agrees'
  assert verdict([74.0, 74.1, 74.2]) == 'does not agree'
  assert verdict([74.79]) == 'no interval: one seed'
  assert verdict([]) == 'not run'
  assert verdict([], cell._replace(note='why')) == 'not run; not comparable: why'
  # One published run lies in the prediction interval of three, not in their interval.
  one_run = cell._replace(half=math.nan, published=74.9)
  assert verdict([74.5, 74.6, 74.7], one_run) == 'agrees'
  assert verdict([74.5, 74.6, 74.7], one_run._replace(published=75.2)) == 'does not agree'
  assert verdict([74.5, 74.6], cell._replace(note='why')) == 'not comparable: why'
  assert verdict([74.5, 74.6], cell._replace(published=math.nan)) == 'no published number'


def again(old, **changes):
  known = {tables.cells('sogclr-1', rows=['sogclr'], data=['cifar10'])[0]: entries('sogclr', old)}
  (first, *_), *_ = known.values()
  return comparison.check(known, [first._replace(**changes)])


@pytest.mark.parametrize(
  ('old', 'changes', 'verdict', 'failed'),
  [
    (BASE, {}, 'equal', 0),
    (
      BASE,
      {'value': 0.8001},
      'not equal, with the same code, libraries, device, cores and data',
      1,
    ),
    (BASE, {'value': 0.78, 'device': 'gpu'}, 'within the prediction interval of the seeds', 0),
    (BASE, {'value': 0.775, 'device': 'gpu'}, 'outside the prediction interval of the seeds', 1),
    (BASE[:1], {'value': 0.775, 'device': 'gpu'}, 'not decided: the ledger has one seed', 0),
  ],
)
def test_a_run_is_reproduced_to_the_bit_or_within_the_spread_of_seeds(
  old, changes, verdict, failed
):
  text, count = again(old, **changes)
  assert text.endswith(verdict) and count == failed


def test_the_prediction_interval_is_that_of_one_more_run():
  values = np.array(BASE)
  low, high = stats.t.interval(0.95, 3, values.mean(), values.std(ddof=1) * math.sqrt(1.25))
  for value, failed in ((low + 1e-6, 0), (low - 1e-6, 1), (high - 1e-6, 0), (high + 1e-6, 1)):
    assert again(BASE, value=value / 100, device='gpu')[1] == failed
