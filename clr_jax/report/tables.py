"""Tables of the report: overview, configs, results, parameters and environment of the runs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from clr_jax.report import page
from clr_jax.rundir.provenance import code_version
from clr_jax.rundir.reader import Run
from clr_jax.rundir.table import table_rows

UNKNOWN = 'unknown'
UNSET = 'not set'  # a key of another method


def overview(runs: Sequence[Run], left_out: Sequence[str]) -> str:
  """Overview of the runs and their progress."""
  others: dict[str, list[str]] = {}
  for run in runs:
    for version in {_clean(start.get('code_version', UNKNOWN)) for start in run.starts}:
      if _is_other(version, _clean(code_version())):
        others.setdefault(version, []).append(run.name)
  sentences = [f'left out: {sentence}' for sentence in left_out]
  sentences += [
    f'trained by another version, clr-jax {version}: {", ".join(names)}; this report is by '
    f'{_clean(code_version())}'
    for version, names in sorted(others.items())
  ]
  return page.missing(sentences) + _columns('Runs', runs, [_facts(run) for run in runs])


def _clean(version: str) -> str:
  return version.removesuffix('.dirty')


def _is_other(version: str, own: str) -> bool:
  """True if two versions are known to differ; an installed package has no commit."""
  (base, _, commit), (own_base, _, own_commit) = version.partition('+'), own.partition('+')
  return base != own_base or bool(commit and own_commit and commit != own_commit)


def _facts(run: Run) -> dict[str, str]:
  """Rows of the overview."""
  total, per_epoch = run.total_steps, run.steps_per_epoch
  epochs = UNKNOWN if per_epoch is None else f'{run.step / per_epoch:.3g}'
  number = run.data.get('number')
  changes = [change for start in run.starts for change in start.get('changed', ())]
  facts = {
    'workdir': run.directory,
    'status': run.status,
    'method': text(run.setting('method.name')),
    'model': text(run.setting('model.name')),
    'data set': f'{run.setting("data.name")} {run.setting("data.train_split")}',
    'training images': UNKNOWN if number is None else f'{number:,}',
    'step': f'{run.step:,} of {UNKNOWN if total is None else f"{total:,}"}',
    'epochs': f'{epochs} of {text(run.setting("num_epochs"))}',
    'batch size': text(run.setting('batch_size')),
    'seed': text(run.setting('seed')),
    'checkpoints': ', '.join(f'{step:,}' for step in run.checkpoints) or 'none',
    'last loss': text(run.series('loss')[1][-1]) if run.series('loss')[1] else 'none',
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
  """All keys of the configs; with several runs, differing keys come first."""
  flats = [{key: text(value) for key, value in run.flat_config.items()} for run in runs]
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
  """Table of parameters that training wrote for each run."""
  html = ''
  for run in runs:
    if run.parameters is None:
      html += page.missing([f'{run.name} has no parameters.txt: it was not begun'])
      continue
    lines = [line.strip() for line in run.parameters.splitlines()]
    cells = [[c.strip() for c in line.strip('|').split('|')] for line in lines if line[:1] == '|']
    total = next((line for line in lines if line.lower().startswith('total')), '')
    caption = f'Parameters of {run.name}{f" ({total})" if total else ""}'
    html += page.table(caption, cells[0], cells[1:], folded=True)
  return html


def evaluation(runs: Sequence[Run]) -> str:
  """Averages over draws, and every record with all parameters."""
  html = page.missing(
    f'{run.name} has no results: run clr-jax evaluate on it' for run in runs if not run.results
  )
  records = [record for run in runs for record in run.results]
  if not records:
    return html
  rows = table_rows(records)
  if rows[0][-1] == 'run':  # the first column names the rows
    rows = [(row[-1], *row[:-1]) for row in rows]
  header, *rows = rows
  caption = 'Results: mean ± half the 95 % interval over draws (Student t)'
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
  """Libraries, devices, seconds and checksums of the runs."""
  return _columns('Environment', runs, [_environment(run) for run in runs])


def _environment(run: Run) -> dict[str, str]:
  def seen(values) -> str:
    return ', '.join(dict.fromkeys(map(text, values)))

  records = run.results
  unmeasured = f'{UNKNOWN}: only results record it, and there are none'
  rates = [row['samples_per_second'] for row in run.metrics if row.get('samples_per_second')]
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


def _checksum(checksums: object) -> str:
  """First digits of a checksum; the JSON file has all of them."""
  digits = checksums.split() if isinstance(checksums, str) else []
  return ' '.join(each[:16] for each in digits) or UNKNOWN


def _columns(caption: str, runs: Sequence[Run], facts: Sequence[Mapping[str, str]]) -> str:
  """A table with one column per run."""
  names = dict.fromkeys(name for own in facts for name in own)
  rows = [(name, *(own.get(name, '') for own in facts)) for name in names]
  return page.table(caption, ('', *(run.name for run in runs)), rows)


# ---------------------------------------------------------------- words
def duration(seconds: float | None) -> str:
  """Formats seconds as '1:02:03 h' or '12.3 s'."""
  if seconds is None:
    return UNKNOWN
  if seconds < 60:
    return f'{seconds:.1f} s'
  return f'{datetime.timedelta(seconds=round(seconds))} h'


def text(value: Any) -> str:
  """Formats a value of a config or record for a cell."""
  if isinstance(value, float):
    return f'{value:.6g}'
  if isinstance(value, Mapping):
    return ', '.join(f'{k}={text(v)}' for k, v in value.items()) or '{}'
  if isinstance(value, (list, tuple)):
    return f'({", ".join(map(text, value))})'
  return str(value)
