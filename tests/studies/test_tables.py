"""The published tables: their cells, their refusals, and a config for each."""

import math
import re

import pytest

from clr_jax.cli.configs import load_config
from clr_jax.core.errors import UserError
from clr_jax.core.intervals import Interval
from clr_jax.studies import comparison, ledger, tables


def test_a_cell_has_its_number_its_config_and_its_flags():
  found = {(c.row, c.data): c for c in tables.cells('sogclr-1')}
  published = [cell for cell in found.values() if not math.isnan(cell.published)]
  assert len(published) == 12  # the table of the report, without its dashes
  assert found['sogclr', 'cifar100'].spec == 'sogclr:cifar100'
  assert found['moco', 'cifar10'].spec == 'sogclr:cifar10-moco'
  assert found['moco', 'cifar10'].published == 89.87
  last = tables.cells('ft-1')[-1]
  assert last.given == (('method.momentum', '1'),) and last.published == 31.2
  assert [c.half for c in tables.cells('tcl-A.1.5')] == [0.23, 0.16]
  assert [c.given for c in tables.cells('tcl-A.1', rows=['tcl'], data=['cifar10'])] == [
    (('num_epochs', '200'),)
  ]


def test_columns_have_flags_and_rows_may_share_a_run():
  found = {c.data: c for c in tables.cells('margins-4-moco_v3', rows=['emphasis'])}
  assert found['cifar100'].given == (('eval.data', 'cifar10'),)
  assert found['cifar10'].given == (('eval.data', 'cifar100'),)
  assert found['cifar100'].spec == 'margins:cifar100-moco_v3-emphasis'
  cells = tables.cells('robustness-1')
  assert {(c.spec, c.given, c.run) for c in cells} == {
    ('robustness:contrastive-labels', (), 'labels')
  }
  assert len({(c.protocol, c.select) for c in cells}) == 9


def test_a_small_version_has_other_data_and_no_published_number():
  (cell,) = tables.cells('ft-1', scale='small', rows=['0.9'])
  assert cell.spec == 'feature_transformation:cifar10-moco_v1' and math.isnan(cell.published)
  assert cell.given[0] == ('method.momentum', '0.9') and len(cell.given) > 1
  assert comparison.verdict(cell, Interval(50.0, 1.0, 3)) == 'not comparable: small scale'


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('sogclr1', {}, r"unknown table 'sogclr1': did you mean 'sogclr-1'\?"),
    ('sogclr-1', {'rows': ['mocco']}, "unknown row of sogclr-1 'mocco': did you mean 'moco'"),
    ('sogclr-1', {'data': ['stl10']}, 'unknown data set of sogclr-1'),
    ('sogclr-1', {'rows': ['salt-pepper'], 'data': ['cifar100']}, 'has no number for salt-pepper'),
    ('ft-7-swav', {'scale': 'small'}, 'has no small version'),
  ],
)
def test_unknown_parts_are_refused(name, options, message):
  with pytest.raises(UserError, match=message):
    tables.cells(name, **options)


def test_baselines_are_rows_and_numbers_are_percentages():
  for name in tables.names():
    known = tables.table(name)
    assert known.baseline in known.rows or (not known.baseline and known.claims)
    assert all(item.stated for item in known.differences) or known.baseline
    cells = tables.cells(name)
    assert all(math.isnan(c.published) or 20 < c.published < 100 for c in cells)
    trained = [cell for cell in cells if not cell.elsewhere]
    keys = [(cell.spec, cell.given, cell.protocol, cell.select) for cell in trained]
    assert len(set(keys)) == len(keys), f'{name}: two rows are the same run'


def built(cells):
  for cell in cells:
    if cell.elsewhere:
      continue
    config, _ = load_config(cell.spec, (), list(cell.given))
    assert cell.protocol in config.eval.protocols, f'{cell.spec} does not measure {cell.protocol}'


def test_the_config_of_a_row_measures_its_protocol():
  built(tables.cells('sogclr-1', rows=['sogclr', 'moco'], data=['cifar10']))
  built(tables.cells('robustness-1'))
  built(tables.cells('robustness-1', scale='small'))
  built(tables.cells('robustness-figure-2', scale='small', rows=['contrastive-10-plb']))
  built(tables.cells('margins-figure-5', rows=['40-0.333'], data=['stl10']))
  built(tables.cells('tcl-figure-5.1', rows=['tcl-resnet101']))
  built(tables.cells('margins-4-byol', data=['stl10']))
  built(tables.cells('tcl-5.1', rows=['supervised'], data=['cifar10']))


@pytest.mark.weekly
@pytest.mark.parametrize('scale', ['full', 'small'])
@pytest.mark.parametrize('name', tables.names())
def test_every_row_has_a_config_that_measures_its_protocol(name, scale):
  try:
    cells = tables.cells(name, scale=scale)
  except UserError as error:
    assert re.search('has no small version', str(error))
    return
  built(cells)


def test_the_entries_of_the_ledger_belong_to_cells():
  lines = ledger.read(ledger.packaged_path())
  assert lines == ledger.merged(lines), 'sort the ledger, one line for each place'
  ledger.check(lines)
  for entry in ledger.packaged():
    assert entry.command.startswith('clr-jax train ')
