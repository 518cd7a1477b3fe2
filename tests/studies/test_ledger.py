"""The ledger: entries of runs, and what is refused."""

import json
import math

import pytest
from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.studies import ledger
from clr_jax.studies.tables import cells


class Run:
  """The parts of a run's reader that make an entry."""

  def __init__(self, records):
    self.results = [{**RECORD, **record} for record in records]
    self.config = type('Config', (), {'seed': 3, 'batch_size': 100})

  def series(self, metric):
    assert metric == 'samples_per_second'
    return [10, 30], [50.0, 200.0]


RECORD = {
  'protocol': 'linear',
  'metric': 'top1',
  'features': 'trained',
  'params': {},
  'value': 0.5,
  'step': 30,
  'config_hash': 'abc',
  'code_version': '0.1.0',
  'libraries': {'jax': '0.10.2'},
  'device': '1 x cpu',
  'cores': 2,
  'data_checksum': 'def',
  'time': '2026-01-01T00:00:00+00:00',
}


def entry(*records):
  cell = cells('sogclr-1', rows=['moco'], data=['cifar10'])[0]
  return ledger.entry_of(cell, 'full', Run(records), ['train', '--config=x'])


def test_an_entry_is_the_mean_over_draws_of_the_newest_step():
  found = entry(
    {'step': 10, 'value': 0.1},
    {'params': {'draw': 0}, 'value': 0.6},
    {'params': {'draw': 1}, 'value': 0.9},
    {'params': {'draw': 1}, 'value': 0.8},  # measured again
    {'features': 'untrained'},
    {'metric': 'top5'},
    {'protocol': 'knn'},
    {'params': {'label_fraction': 0.1}},
    {'params': {'draw': 1, 'selection': 'best_on_test'}, 'value': 0.99},
  )
  assert found.value == pytest.approx(0.7) and found.step == 30 and found.seed == 3
  assert found.key == ('sogclr-1', 'moco', 'cifar10', 'full', 3)
  assert found.seconds == 10 * 100 / 50 + 20 * 100 / 200
  assert found.command == 'clr-jax train --config=x'
  assert entry({'protocol': 'knn'}) is None


def test_a_cell_selects_among_the_records_of_a_run_that_rows_share():
  def record(value, protocol='few_label', features='trained', **params):
    return {'protocol': protocol, 'value': value, 'features': features, 'params': params}

  records = [
    record(0.1, label_fraction=0.01),
    record(0.2, label_fraction=0.1),
    record(0.99, label_fraction=0.1, selection='best_on_test'),
    record(0.3, label_fraction=0.1, features='untrained', baseline='robustness_supervised'),
    record(0.4, label_fraction=0.1, protocol='finetune'),
  ]
  run = Run(records)
  found = {}
  for cell in cells('robustness-1'):
    made = ledger.entry_of(cell, 'full', run, ['train'])
    found[cell.row] = made and made.value
  assert {row: value for row, value in found.items() if value} == {
    'contrastive-1': 0.1,
    'contrastive-10': 0.2,
    'supervised-10': 0.3,
    'fine-tuned-10': 0.4,
  }


def test_later_ledgers_replace_entries_and_files_keep_them(tmp_path):
  path = epath.Path(tmp_path / 'ledger.jsonl')
  assert ledger.read(path) == []
  old, new = entry({}), entry({'value': 0.75})
  other = old._replace(seed=1)
  both = ledger.merged([old, other], [new])
  assert both == [other, new]
  ledger.write(path, both)
  assert ledger.read(path) == both


def test_a_ledger_keeps_the_tables_of_pages(tmp_path, monkeypatch):
  monkeypatch.setattr(ledger, 'folder', lambda: tmp_path)
  shown = ledger.PageTable(
    *('x', ['a'], [['1 ± 2']], 'clr-jax train', [0, 1]),
    *('0.1.0', {'jax': '0.10.2'}, '1 x cpu', 2, 'abc', '2026-01-01'),
  )
  ledger.write(ledger.packaged_path(), [shown, entry({})])
  assert ledger.packaged() == [entry({})] and ledger.packaged(ledger.PageTable) == [shown]


def test_runs_of_other_cells_protocols_or_configs_are_refused():
  good = entry({})._replace(command='clr-jax train --config=sogclr:cifar10-moco --config.seed=3')
  ledger.check([good])
  for change, message in (
    ({'protocol': 'knn'}, "protocol 'knn' instead of 'linear'"),
    ({'command': 'clr-jax train --config=quickstart '}, "config 'quickstart' instead of"),
    ({'row': 'mocco'}, "unknown row of sogclr-1 'mocco'"),
    ({'scale': 'tiny'}, "scale 'tiny' instead of 'full'"),
    ({'value': 89.1}, 'value 89.1'),
  ):
    with pytest.raises(UserError, match=message):
      ledger.check([good, good._replace(**change)])


def test_a_median_distance_may_be_zero_or_more_than_one():
  known = next(e for e in ledger.packaged() if e.metric == 'median_distance')
  ledger.check([known._replace(value=0.0), known._replace(value=1.2)])
  with pytest.raises(UserError, match='value inf instead of a finite one'):
    ledger.check([known._replace(value=math.inf)])


BROKEN = ('{', '[]', '{"table": "x"}')
OTHERS = ({'unknown': 1}, {'seed': 'x'}, {'value': math.nan}, {'params': 3})


@pytest.mark.parametrize('line', BROKEN + OTHERS)
def test_a_damaged_line_is_named(tmp_path, line):
  path = epath.Path(tmp_path / 'ledger.jsonl')
  ledger.write(path, [entry({})])
  if isinstance(line, dict):
    line = json.dumps(json.loads(path.read_text()) | line)
  path.write_text(path.read_text() + line + '\n')
  with pytest.raises(UserError, match=r'line 2 of .* is not one of a ledger'):
    ledger.read(path)
