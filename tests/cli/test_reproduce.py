"""`clr-jax reproduce`: its lists, its refusals, and two rows trained by real processes."""

import json
import pathlib
import re

import pytest
from etils import epath

from clr_jax.cli import expected
from clr_jax.studies import ledger, tables
from clr_jax.studies.ledger import Plan
from tests import tiny_table
from tests.cli.calling import call

TINY = pathlib.Path(__file__).parents[1] / 'tiny.py'


@pytest.fixture
def tiny_tables(tmp_path, monkeypatch):
  """One table of two rows, which take seconds."""
  folder = tiny_table.write(tmp_path / 'configs')
  for module in (tables, ledger):
    monkeypatch.setattr(module, 'folder', lambda: folder)
  return folder


def test_all_tables_and_the_commands_of_one(capsys):
  assert not call('reproduce')
  out = capsys.readouterr().out
  assert all(f'\n{name} ' in out for name in tables.names())
  assert not call('reproduce', 'ft-1', '--rows=0.9,1', '--seeds=2', '--list', '--workdir=/runs')
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4 and lines[1] == (
    'clr-jax train --config=feature_transformation:imagenet100-moco_v1 '
    '--config.method.momentum=0.9 --config.seed=1 '
    '--workdir=/runs/ft-1-full-0.9-imagenet100-seed=1'
  )


def test_rows_that_share_a_run_are_one_command(capsys):
  assert not call('reproduce', 'robustness-1', '--list')
  assert capsys.readouterr().out == (
    'clr-jax train --config=robustness:contrastive-labels --config.seed=0 '
    '--workdir=DIR/robustness-1-full-labels-cifar10-seed=0\n'
  )


def test_a_table_without_runs(tiny_tables, capsys):
  assert not call('reproduce', 'tiny')
  out = capsys.readouterr().out
  assert out.count('not run') == 3 and '+5.00' in out


def test_runs_are_added_and_pages_made(tiny_tables, tmp_path, capsys):
  blank = dict.fromkeys(ledger.Entry._fields, '')
  made = {'table': 'tiny', 'row': 'simclr', 'data': 'digits', 'scale': 'full', 'seed': 0}
  made |= {'value': 0.8, 'protocol': 'knn', 'command': f'clr-jax train --config={TINY}:simclr '}
  made |= {
    'metric': 'top1',
    'libraries': {'jax': '1'},
    'cores': 1,
    'seconds': 1.0,
    'step': 1,
    'params': {},
  }
  (tmp_path / 'new.jsonl').write_text(json.dumps({**blank, **made}) + '\n')
  page = tmp_path / 'page.md'
  page.write_text('<!-- ledger: tiny full -->\n<!-- end -->\n')
  shown = ledger.PageTable('x', ['a'], [['1']], '', [0], '', {}, '', 1, '', '')
  ledger.write(ledger.packaged_path(), [shown])
  assert not call('reproduce', f'--add={tmp_path}/new.jsonl')
  assert len(ledger.packaged()) == 1 and ledger.packaged(ledger.PageTable) == [shown]
  assert not call('reproduce', f'--pages={page}') and not call('reproduce', f'--pages={page}')
  out = capsys.readouterr().out.splitlines()
  assert out[0].startswith('1 lines of ') and out[1].endswith('written') and out[2].endswith('was')
  assert '| simclr | digits | 80.00 | 80.00 (n=1) |' in page.read_text()
  for arguments, words in (
    (['tiny', f'--pages={page}'], 'leave tiny out'),
    (['--pages=none.md'], 'none.md cannot be read (No such file or directory)'),
    ([f'--pages={tmp_path}'], 'cannot be read ('),
    (['--add=none.jsonl'], 'there is no such file'),
    ([f'--add={tmp_path}'], 'cannot be read ('),
  ):
    assert call('reproduce', *arguments) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and words in err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['sogclr-2'], "unknown table 'sogclr-2'"),
    (['sogclr-1', '--rows=a'], 'unknown row of sogclr-1'),
    (['sogclr-1', '--scale=tiny'], "--scale=tiny: choose one of 'full', 'small'"),
    (['sogclr-1', '--seeds=0'], 'seeds'),
    (['--seeds=3'], '--seeds, --workdir have no effect without a table: name one'),
    (
      ['ft-9'],
      'ft-9 is not trained by reproduce: Detectron2 from random weights',
    ),
    (['sogclr-1', '--plan=tpu:4'], 'kind of device in --plan'),
    (['sogclr-1', '--rows=real', '--check'], 'the ledger has no full run of real in sogclr-1'),
  ],
)
def test_refusals(arguments, message, capsys, tmp_path):
  assert call('reproduce', *arguments, f'--workdir={tmp_path}/new') == 2
  err = capsys.readouterr().err
  assert message in err and err.count('\n') == 1 and not (tmp_path / 'new').exists()


def test_options_that_nothing_uses_are_refused(capsys):
  assert call('reproduce', 'sogclr-1', '--seeds=3', '--jobs=2') == 2
  err = capsys.readouterr().err
  assert '--seeds, --jobs have no effect without runs: give --workdir=DIR' in err
  assert call('reproduce', '--pages=README.md', '--rows=a') == 2
  assert '--rows has no effect without a table' in capsys.readouterr().err


def test_numbers_that_are_made_elsewhere_and_figures_have_a_command(capsys):
  assert not call('reproduce', 'ft-8-transfer', '--rows=moco_v2-both')
  out = capsys.readouterr().out
  assert out.count('not trained here: clr-jax evaluate transfer ') == 3 and '84.10' in out
  assert not call('reproduce', 'tcl-figure-5.4')
  out = capsys.readouterr().out
  assert 'The figure, after the runs in DIR: clr-jax inspect sweep $(printf' in out
  assert not call('reproduce', 'ft-9', '--rows=moco_v1')
  assert 'average precision in percent' in capsys.readouterr().out


@pytest.mark.slow
def test_steps_memory_and_command_of_a_row(capsys):
  small = ['--scale=small', '--rows=0', '--plan=cpu:8']
  assert not call('reproduce', 'robustness-2-supervised', *small)
  out = capsys.readouterr().out
  assert re.search(r'^0 +fashion_mnist +cpu:8 +128 +390 +0\.\d *\n', out, re.MULTILINE), out
  assert 'Compiled by clr-jax ' in out
  assert '\nclr-jax train --config=robustness:fashion_supervised ' in out
  assert call('reproduce', 'robustness-2-supervised', *small[:2], '--plan=cpu') == 2


def test_costs_are_shown_and_kept(tiny_tables, tmp_path, capsys, monkeypatch):
  place = tmp_path / 'plans'
  arguments = ['reproduce', 'tiny', '--rows=simclr', '--plan=cpu', f'--workdir={place}']
  made = Plan(
    *('h200:1', [['tiny', 'simclr', 'digits', 60]], 64, 2**30, 0.5, 2.0),
    *('clr-jax reproduce', '0.1.0', {'jax': '1.2'}, '2030-01-02'),
  )
  monkeypatch.setattr(expected, 'compiled', lambda cells, target: iter([made]))
  assert not call(*arguments) and not call(*arguments)
  assert capsys.readouterr().out.count('simclr  digits  h200:1    64             60 ') == 2
  assert ledger.read(epath.Path(place / 'ledger.jsonl')) == [made]
  assert not call('reproduce', f'--add={place}/ledger.jsonl')
  assert not call('reproduce', 'tiny')
  assert 'Expected cost of a run\n\nrow ' in capsys.readouterr().out
  assert not call('reproduce', 'tiny', '--list')
  out, err = capsys.readouterr()
  assert all(line.startswith('clr-jax train ') for line in out.splitlines()) and 'h200:1' in err
  assert not call('reproduce')
  assert '< 0.1 (h200:1, 1 of 2 runs)' in capsys.readouterr().out
  ledger.write(epath.Path(place / 'ledger.jsonl'), [made._replace(target='zzz')])
  assert call('reproduce', f'--add={place}/ledger.jsonl') == 2
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and 'has a plan that no listing could show' in err
  assert ledger.packaged(Plan) == [made]
  (tmp_path / 'file').write_text('')
  assert call(*arguments[:-1], f'--workdir={tmp_path}/file') == 2
  assert capsys.readouterr().err.count('\n') == 1


@pytest.mark.weekly
def test_rows_are_trained_once_and_compared(tiny_tables, tmp_path, capsys):
  arguments = ['reproduce', 'tiny', '--seeds=2', f'--workdir={tmp_path}/runs', '--jobs=2']
  assert not call(*arguments)
  out, err = capsys.readouterr()
  assert err.count(': finished in') == 4
  kept = [json.loads(line) for line in (tmp_path / 'runs/ledger.jsonl').read_text().splitlines()]
  assert [(e['row'], e['seed']) for e in kept] == [
    *(('simclr', 0), ('simclr', 1), ('sogclr', 0), ('sogclr', 1))
  ]
  assert all(0.1 < e['value'] <= 1 and e['seconds'] > 0 for e in kept)
  assert out.count('(n=2)') == 3 and '4 numbers in' in out
  assert not call(*arguments)  # nothing is left to train
  again, err = capsys.readouterr()
  assert again == out and 'finished in' not in err
  (tiny_tables / 'ledger.jsonl').write_text((tmp_path / 'runs/ledger.jsonl').read_text())
  assert not call('reproduce', 'tiny')  # from the ledger alone
  assert capsys.readouterr().out.strip() == out[: out.index('\n4 numbers')].strip()
  again = f'--workdir={tmp_path}/again'
  of_one_core = (
    '--check',
    '--rows=simclr',
    '--jobs=2',
    again,
  )  # as above; others may round otherwise
  assert not call('reproduce', 'tiny', '--seeds=1', *of_one_core)
  assert capsys.readouterr().out.count(' equal') == 1
  assert not call('reproduce', 'tiny', *of_one_core)
  out = capsys.readouterr().out
  assert out.count(' equal') == 2 and 'sogclr' not in out
