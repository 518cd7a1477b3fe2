"""Tables of pages: made from the ledger, and nothing else."""

import pathlib
import re

import pytest

from clr_jax.core.errors import UserError
from clr_jax.studies import ledger, pages
from clr_jax.studies.ledger import Entry, PageTable

ROOT = pathlib.Path(__file__).parents[2]
ALL_PAGES = [
  *ROOT.glob('*.md'),
  *(p for top in ('configs', 'launch', 'tests', 'clr_jax') for p in (ROOT / top).rglob('*.md')),
]
PAGES = [path for path in ALL_PAGES if '<!-- ledger: ' in path.read_text()]
MARK = '<!-- ledger: sogclr-1 full -->\n'


def runs(row, *values):
  blank = dict.fromkeys(Entry._fields, '')
  own = {'table': 'sogclr-1', 'row': row, 'data': 'cifar10', 'scale': 'full', 'device': '1 x gpu'}
  made = {'libraries': {'jax': '1.2'}, 'cores': 4, 'seconds': 3600.0, 'time': '2030-01-02T00:00'}
  made['code_version'] = 'abc'
  return [
    Entry(**{**blank, **own, **made, 'seed': seed, 'value': value / 100})
    for seed, value in enumerate(values)
  ]


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_tables_of_pages_are_those_of_the_ledger(page):
  text = page.read_text()
  made = pages.filled(text, ledger.read(ledger.packaged_path()))
  assert made == text, f'run: clr-jax reproduce --pages={page.relative_to(ROOT)}'


def test_every_run_of_the_ledger_is_on_a_page():
  shown = ''.join(page.read_text() for page in PAGES)
  for table, scale in {(entry.table, entry.scale) for entry in ledger.packaged()}:
    assert f'<!-- ledger: {table} {scale} -->' in shown, f'{table} at {scale} scale is on no page'
  for made in ledger.packaged(PageTable):
    assert f'<!-- ledger: {made.name} page -->' in shown, f'{made.name} is on no page'


# First heads of the tables that are not from the ledger: lists without measured numbers, numbers of
# papers.
LISTS = {
  *('script', 'section', 'extra', 'method', 'symptom', 'config', 'package', 'item', 'exit code'),
  *('injected fault', '`config.data.name`', '`evaluate`', '`--params.attack` of `robustness`'),
  *('`inspect`', '`config.plugins.`', 'component', 'target', 'folder or file', 'block', 'option'),
  'pre-training',
}


def heads_of_tables_outside_of_the_ledger(text):
  """The first heads of the tables that no mark surrounds."""
  text = re.sub(r'<!-- ledger: .*?<!-- end -->', '', text, flags=re.DOTALL)
  return [
    line.split('|')[1].strip() for line in re.findall(r'^\|.*\n(?=\| ?---)', text, re.MULTILINE)
  ]


@pytest.mark.parametrize('page', ALL_PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_table_of_measurements_is_in_the_ledger(page):
  text = page.read_text()
  for head in heads_of_tables_outside_of_the_ledger(text):
    assert head in LISTS, (
      f'{page.name}: the table of {head!r} is not from the ledger: put it there (PageTable)'
    )


def test_the_methods_of_the_readme_have_the_numbers_of_the_ledger():
  (made,) = [table for table in ledger.packaged(PageTable) if table.name == 'methods-digits']
  measured = {row[0]: row[1] for row in made.rows if row[0].startswith('`')}
  rows = re.findall(
    r'^\| (`\w+`) \|[^|]*\| ([^|]*) \|', (ROOT / 'README.md').read_text(), re.MULTILINE
  )
  assert measured == {name: value for name, value in rows if '±' in value}


def test_a_table_of_a_page_is_that_of_the_ledger():
  blank = dict.fromkeys(PageTable._fields, '')
  made = PageTable(**{**blank, 'name': 'x', 'columns': ['a', 'b'], 'rows': [['1', '2 ± 3']]})
  text = '<!-- ledger: x page -->\n<!-- end -->\n'
  assert '| a | b |\n| --- | --- |\n| 1 | 2 ± 3 |\n' in pages.filled(text, [made])
  with pytest.raises(UserError, match="unknown table of a page 'x'"):
    pages.filled(text, [])


def test_a_table_has_rows_differences_and_provenance():
  entries = runs('sogclr', 89.0, 89.2) + runs('moco', 90.0, 90.4) + runs('real', 87.0)
  text = pages.filled(f'before\n{MARK}old\n<!-- end -->\nafter\n', entries)
  lines = text.splitlines()
  assert lines[0] == 'before' and lines[-2:] == ['<!-- end -->', 'after'] and 'old' not in text
  assert any(line.startswith('| sogclr | cifar10 | 89.36 | 89.10 ± ') for line in lines)
  assert any(line.startswith('| moco - sogclr | cifar10 | +0.51 | +1.10 ± ') for line in lines)
  assert 'salt-pepper' not in text  # no run
  assert '1 x gpu with 4 cores, JAX 1.2, revision abc, until 2030-01-02' in text.replace('\n', ' ')
  assert '--rows=sogclr,moco --seeds=2 ' in text and '--rows=real --seeds=1 ' in text
  assert pages.filled(text, entries) == text
  assert 'No run yet.' in pages.filled(text, [])


@pytest.mark.parametrize(
  'text', [MARK, f'{MARK}{MARK}<!-- end -->', '<!-- ledger: x -->\n<!-- end -->']
)
def test_damaged_marks_are_refused(text):
  with pytest.raises(UserError, match='a table of the page has another form'):
    pages.filled(text, [])
  with pytest.raises(UserError, match="unknown table 'sogclr-2'"):
    pages.filled(MARK.replace('-1', '-2') + '<!-- end -->', [])
