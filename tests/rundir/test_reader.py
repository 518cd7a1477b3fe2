"""The one reader of runs: what it finds, what it skips, and that it reads no more than is asked."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.rundir import reader
from clr_jax.rundir.reader import Run, read_runs
from tests.figures.run_files import add_result, write_run

ROWS = {4: {'loss': 1.0, 'samples_per_second': 64.0}, 8: {'loss': float('nan'), 'hist': [1.0, 2.0]}}


def test_numbers_and_identity(tmp_path):
  directory = write_run(tmp_path / 'a', ROWS, 'simclr', images=1437, seed=3)
  arrays = {'distance': np.arange(3.0)}
  add_result(directory, 'robustness', 'median_distance', 0.5, {'attack': 'x'}, arrays=arrays)
  run = Run(directory)
  assert (run.name, run.method, run.seed, run.setting('data.name')) == ('a', 'simclr', 3, 'digits')
  assert run.setting('no.such.key') is None
  steps, values = run.series('loss')
  assert steps == [4, 8] and values[0] == 1 and np.isnan(values[1])
  assert run.series('hist') == ([], [])  # a list is no number
  (record,) = run.results
  assert (record['run'], record['value']) == ('a', 0.5)
  np.testing.assert_array_equal(run.arrays(record)['distance'], [0, 1, 2])
  (start,) = run.starts
  assert len(start['config_hash']) == 12 and 'config' not in start
  assert run.parameters is None and run.data == {'number': 1437}
  assert run.training_seconds == 4


@pytest.mark.parametrize(
  ('saved', 'changes', 'status'),
  [
    ([], {}, 'interrupted, or still running: step 8 of 22'),
    ([6], {}, 'interrupted, or still running: step 8 of 22'),
    ([11], {'stop_at_epoch': 0.5}, 'stopped as asked (stop_at_epoch=0.5): step 11 of 22'),
    ([22], {'stop_at_epoch': 0.5}, 'finished'),
    ([16, 22], {}, 'finished'),
  ],
)
def test_status(tmp_path, saved, changes, status):
  run = Run(write_run(tmp_path / 'a', ROWS, images=1437, **changes))
  for step in saved:
    (run.workdir.checkpoints / str(step)).mkdir(parents=True)
  (run.workdir.checkpoints / '30.orbax-checkpoint-tmp-1').mkdir(parents=True)  # not complete
  assert run.checkpoints == saved and run.status == status


def test_status_without_metrics_or_images(tmp_path):
  run = Run(write_run(tmp_path / 'a', images=1437))
  assert run.status.startswith('not begun')
  (run.workdir.path / 'data.json').write_text('[1, ')
  unread = Run(tmp_path / 'a')
  assert unread.data == {} and 'images is not recorded' in unread.status


def test_several_runs_have_different_names_and_others_are_skipped(tmp_path):
  for path in ('x/a', 'y/a', 'b'):
    write_run(tmp_path / path)
  given = [str(tmp_path / path) for path in ('x/a', 'y/a', 'nothing', 'b', 'x/a')]
  runs, skipped = read_runs(given)
  assert [run.name for run in runs] == [given[0], given[1], 'b']
  (sentence,) = skipped
  assert 'nothing is not a run' in sentence
  with pytest.raises(UserError, match='not a run'):
    Run(given[2])


def test_each_file_is_read_once_and_when_it_is_needed(tmp_path, monkeypatch):
  directory, read = write_run(tmp_path / 'a', ROWS), []
  for name in ('read_metrics', 'read_results'):
    monkeypatch.setattr(reader, name, lambda workdir, name=name: read.append(name) or [])
  run = Run(directory)
  assert read == []
  assert run.metrics == run.metrics == run.results == [] and run.step == 0
  assert read == ['read_metrics', 'read_results']


def test_starts_are_those_of_the_config_files(tmp_path):
  directory = write_run(tmp_path / 'a')
  write_run(tmp_path / 'a', log_every=7)
  first, second = Run(directory).starts
  assert 'changed' not in first and second['changed'] == ['log_every: 4 -> 7']
  assert json.loads((tmp_path / 'a' / 'config-1.json').read_text())['config']['log_every'] == 7
  assert Run(directory).setting('log_every') == 7


# ---------------------------------------------------------------- files of the wrong kind
WRONG = {
  'folder': None,
  'empty': b'',
  'binary': bytes(range(256)),
  'list': b'[]',
  'string': b'"x"',
  'brackets': b'[' * 100_000,
  'cut': b'{"config": {"seed"',
}


def spoil(path, content):
  """Puts other bytes in place of a file; a folder for None."""
  path.unlink()
  path.write_bytes(content) if content is not None else path.mkdir()


@pytest.fixture
def whole(tmp_path):
  directory = write_run(tmp_path / 'run', {4: {'loss': 1.0}}, images=1437)
  add_result(directory, 'knn', 'top1', 0.5, {'k': 5})
  (pathlib.Path(directory) / 'parameters.txt').write_text('a table')
  return pathlib.Path(directory)


@pytest.mark.parametrize('kind', WRONG)
def test_files_of_the_wrong_kind(whole, kind):
  for pattern in ('data.json', 'metrics/*', 'results/*', 'parameters.txt'):
    for path in whole.glob(pattern):
      spoil(path, WRONG[kind])
  run = Run(whole)
  assert (run.metrics, run.results, run.data, run.steps_per_epoch) == ([], [], {}, None)
  assert run.status.startswith('unknown') and (run.parameters or kind in ('folder', 'empty'))
  spoil(whole / 'config.json', WRONG[kind])
  with pytest.raises(UserError, match=r'config\.json is damaged or was not written by clr-jax'):
    Run(whole)


@pytest.mark.parametrize('value', [None, [], {}, 'x', True])
def test_fields_of_the_wrong_kind(whole, value):
  (path,) = whole.glob('results/*.json')
  record = json.loads(path.read_text())
  shown_only = {
    *('arrays', 'checkpoint', 'code_version', 'compiler_options'),
    *('cores', 'device', 'libraries'),
  }
  for key in set(record) - shown_only - {'seed'}:
    if not isinstance(value, type(record[key])) and key != 'seconds':
      path.write_text(json.dumps({**record, key: value}))
      assert Run(whole).results == [], key
  (whole / 'data.json').write_text(json.dumps({'number': value}))
  assert Run(whole).total_steps is None
  stored = json.loads((whole / 'config.json').read_text())
  odd = [{**stored['config'], part: ['x']} for part in ('batch_size', 'method', 'num_epochs')]
  for config in (value, {'seed': value}, *odd):
    (whole / 'config.json').write_text(json.dumps({**stored, 'config': config}))
    with pytest.raises(UserError, match=r'config\.json'):
      Run(whole)


@pytest.mark.parametrize('name', ['checkpoints', 'metrics', 'results', 'features', 'damaged'])
def test_a_file_in_place_of_a_folder(whole, name):
  shutil.rmtree(whole / name, ignore_errors=True)
  (whole / name).write_text('x')
  with pytest.raises(UserError, match=f'{name} is not a folder: remove it'):
    Run(whole)
  (whole / name).unlink()
  (whole / name).symlink_to('nowhere')
  with pytest.raises(UserError, match=f'{name} is not a folder: remove it'):
    Run(whole)
