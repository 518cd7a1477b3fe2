"""The report's tables: what the runs are, their configs, results, parameters and environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clr_jax.report import page
from clr_jax.rundir.provenance import code_version
from clr_jax.rundir.reader import UNKNOWN, Run, duration, text
from clr_jax.rundir.table import table_rows

UNSET = 'not set'  # a key of another version


def overview(runs: Sequence[Run], left_out: Sequence[str]) -> str:
  """What each run is, and how far it came."""
  html = ''.join(page.missing(f'{sentence[0].upper()}{sentence[1:]}.') for sentence in left_out)
  others: dict[str, list[str]] = {}
  for run in runs:
    for version in {_clean(start.get('code_version', UNKNOWN)) for start in run.starts}:
      if version != _clean(code_version()):
        others.setdefault(version, []).append(run.name)
  for version, names in sorted(others.items()):
    html += page.missing(
      f'Trained by another version, clr-jax {version}: {", ".join(names)}. This report is by '
      f'{_clean(code_version())}: keys of the config may be missing or have another meaning.'
    )
  return html + _columns('Runs', runs, [_facts(run) for run in runs])


def _clean(version: str) -> str:
  return version.removesuffix('.dirty')


def _facts(run: Run) -> dict[str, str]:
  """Rows of the overview."""
  total, per_epoch = run.total_steps, run.steps_per_epoch
  epochs = UNKNOWN if per_epoch is None else f'{run.step / per_epoch:.3g}'
  number = run.data.get('number')
  last = run.rows[-1] if run.rows else {}
  changes = [change for start in run.starts for change in start.get('changed', ())]
  facts = {
    'workdir': run.directory,
    'status': run.status,
    'method': text(run.get('method.name', UNKNOWN)),
    'model': text(run.get('model.name', UNKNOWN)),
    'data set': f'{run.get("data.name", UNKNOWN)} {run.get("data.train_split") or ""}'.strip(),
    'training images': UNKNOWN if number is None else f'{number:,}',
    'step': f'{run.step:,} of {UNKNOWN if total is None else f"{total:,}"}',
    'epochs': f'{epochs} of {text(run.get("num_epochs", UNKNOWN))}',
    'batch size': text(run.get('batch_size', UNKNOWN)),
    'seed': text(run.get('seed', UNKNOWN)),
    'checkpoints': ', '.join(f'{step:,}' for step in run.checkpoints) or 'none',
    'loss of the last row': text(last['loss']) if 'loss' in last else 'none',
    'time in training steps': duration(run.training_seconds),
    'begun (UTC)': text(run.starts[0].get('time', UNKNOWN)),
    'code version': ', '.join(
      dict.fromkeys(text(start.get('code_version', UNKNOWN)) for start in run.starts)
    ),
    'config hash': text(run.starts[-1].get('config_hash', UNKNOWN)),
  }
  if changes:
    facts['changed while it ran'] = '; '.join(changes)
  return facts


def configuration(runs: Sequence[Run]) -> str:
  """Every key of the configs; of several runs, those in which they differ first."""
  flats = [{key: text(value) for key, value in run.flat.items()} for run in runs]
  keys = sorted({key for flat in flats for key in flat})
  if len(runs) == 1:
    rows = [(key, flats[0][key]) for key in keys]
    return page.table(f'Configuration of {runs[0].name}', ('key', 'value'), rows)
  header = ('key', *(run.name for run in runs))
  rows = [(key, *(flat.get(key, UNSET) for flat in flats)) for key in keys]
  differing = [row for row in rows if len(set(row[1:])) > 1]
  same = [row[:2] for row in rows if len(set(row[1:])) == 1]
  html = (
    page.table('Keys in which the runs differ', header, differing)
    if differing
    else '<p>The runs have the same configuration.</p>\n'
  )
  return html + page.table(
    'Keys that are the same in all runs', ('key', 'value'), same, folded=True
  )


def parameters(runs: Sequence[Run]) -> str:
  """The table that training wrote, of each run."""
  html = ''
  for run in runs:
    if run.parameters is None:
      html += page.missing(f'{run.name} has no parameters.txt: it was not begun.')
      continue
    lines = [line.strip() for line in run.parameters.splitlines()]
    cells = [[c.strip() for c in line.strip('|').split('|')] for line in lines if line[:1] == '|']
    total = next((line for line in lines if line.lower().startswith('total')), '')
    caption = f'Parameters of {run.name}{f" ({total})" if total else ""}'
    if cells and all(len(row) == len(cells[0]) for row in cells):
      html += page.table(caption, cells[0], cells[1:], folded=True)
    else:  # another version of the table
      body = page.escape(run.parameters)
      html += f'<details><summary>{page.escape(caption)}</summary><pre>{body}</pre></details>\n'
  return html


def evaluation(runs: Sequence[Run]) -> str:
  """Averages over draws, and every record with all of its parameters."""
  html = ''.join(
    page.missing(f'{run.name} has no results: run `clr-jax evaluate` on it.')
    for run in runs
    if not run.records
  )
  records = [record for run in runs for record in run.records]
  if not records:
    return html
  rows = table_rows(records)
  if rows[0][-1] == 'run':  # the first column names the rows
    rows = [(row[-1], *row[:-1]) for row in rows]
  header, *rows = rows
  caption = 'Results: mean ± half the 95 % interval over draws (Student t); accuracies in [0, 1]'
  html += page.table(caption, header, [[c.replace('+-', '±') for c in row] for row in rows])
  names = ('run', 'protocol', 'metric', 'value', 'features', 'step', 'parameters', 'seconds')
  names = (*names, 'data', 'checksum', 'seed', 'device', 'code version', 'time (UTC)')
  return html + page.table(
    f'All {len(records):,} measurements', names, map(_record, records), folded=True
  )


def _record(record: Mapping[str, Any]) -> list[str]:
  seconds = record.get('seconds')
  return [
    record['run'],
    record['protocol'],
    record['metric'],
    text(record['value']),
    record['features'],
    text(record['step']),
    text(record['params']),
    '' if seconds is None else f'{seconds:.2f}',
    text(record.get('data', UNKNOWN)),
    _checksum(record.get('data_checksum')),
    text(record.get('seed', UNKNOWN)),
    text(record.get('device', UNKNOWN)),
    text(record.get('code_version', UNKNOWN)),
    text(record.get('time', UNKNOWN)),
  ]


def environment(runs: Sequence[Run]) -> str:
  """Libraries, devices, seconds and checksums that the numbers depend on."""
  return _columns('Environment', runs, [_environment(run) for run in runs])


def _environment(run: Run) -> dict[str, str]:
  def seen(values) -> str:
    return ', '.join(dict.fromkeys(map(text, values)))

  records = run.records
  unmeasured = f'{UNKNOWN}: only results record it, and there are none'
  rates = [row['samples_per_second'] for row in run.rows if row.get('samples_per_second')]
  facts = {
    'code, training': seen(s.get('code_version', UNKNOWN) for s in run.starts),
    'code, evaluation': seen(r.get('code_version', UNKNOWN) for r in records) or unmeasured,
    'device, evaluation': seen(r.get('device', UNKNOWN) for r in records) or unmeasured,
    'time in training steps': duration(run.training_seconds),
    'training images / s, median': f'{sorted(rates)[len(rates) // 2]:,.0f}' if rates else UNKNOWN,
    'checksum of the training images': _checksum(run.data.get('checksum')),
  }
  facts |= {
    f'checksums, {data}': seen(
      _checksum(r.get('data_checksum')) for r in records if r.get('data', UNKNOWN) == data
    )
    for data in dict.fromkeys(r.get('data', UNKNOWN) for r in records)
  }
  libraries: dict[str, list[str]] = {}
  for record in records:
    for name, version in record.get('libraries', {}).items():
      libraries.setdefault(name, []).append(version)
  return facts | {f'{name}, evaluation': seen(v) for name, v in libraries.items()}


def _checksum(checksums: str | None) -> str:
  """The first digits; the JSON file has all of them."""
  return ' '.join(digits[:16] for digits in checksums.split()) if checksums else UNKNOWN


def _columns(caption: str, runs: Sequence[Run], facts: Sequence[Mapping[str, str]]) -> str:
  """A table with one column for each run."""
  names = dict.fromkeys(name for own in facts for name in own)
  rows = [(name, *(own.get(name, '') for own in facts)) for name in names]
  return page.table(caption, ('', *(run.name for run in runs)), rows)
