"""Whose run it is, what changed, what was measured."""

import errno
import hashlib
import json
import math
import os
import subprocess

import jax
import numpy as np
import pytest

import clr_jax
from clr_jax.core.errors import UserError
from clr_jax.core.storage import atomic_write
from clr_jax.rundir import config_records, identity, provenance
from clr_jax.rundir.config_records import read_config, read_config_hash
from clr_jax.rundir.identity import RunIdentity
from clr_jax.rundir.results import read_results
from clr_jax.rundir.table import format_table
from clr_jax.rundir.workdir import Workdir
from tests.rundir.configs import make_config, record

WITHOUT_EFFECT = {'log_every', 'stop_at_epoch', 'data.workers', 'eval'}


def open_run(run, config):
  return identity.open_run(run, config, WITHOUT_EFFECT)


def hash_config(config):
  return identity.hash_config(config, WITHOUT_EFFECT)


def read(path):
  return json.loads(path.read_text())


# ---------------------------------------------------------------- paths
def test_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run = Workdir('some/../run')
  assert str(run.path) == str(tmp_path / 'run')
  assert run.results.parent == run.path
  assert not run.path.exists()
  remote = Workdir('gs://bucket/run')
  assert str(remote.checkpoints).startswith('gs://bucket/run/checkpoints')


# ---------------------------------------------------------------- identity
def test_a_new_run_records_its_config(tmp_path):
  run = Workdir(tmp_path / 'a' / 'run')
  found = open_run(run, make_config())
  assert found.changed == ()
  record = read(run.path / 'config.json')
  assert record['config_hash'] == found.config_hash
  assert (record['format'], len(found.config_hash)) == (1, 12)
  int(found.config_hash, 16)
  assert list(record['config']) == sorted(record['config'])
  assert record['config']['method'] == {'name': 'simclr', 'temperature': 0.5}
  assert [p.name for p in run.path.iterdir()] == ['config.json']
  assert open_run(run, make_config()) == found  # the same again: nothing new
  assert [p.name for p in run.path.iterdir()] == ['config.json']


def test_changed_trajectory_is_refused_with_every_key(tmp_path):
  run = Workdir(tmp_path)
  open_run(run, make_config())
  atomic_write(run.metrics / 'row.jsonl', '{"step": 1}')
  changed = make_config(**{'seed': 1, 'method.temperature': 0.1, 'log_every': 9, 'evaluator': 2})
  with changed.unlocked():
    changed.new = 'x'
    changed.added_since = None  # an option that the run was made without
    del changed.num_epochs
  with pytest.raises(UserError) as error:
    open_run(run, changed)
  message = str(error.value)
  for text in (
    'seed: 0 -> 1',
    'method.temperature: 0.5 -> 0.1',
    'evaluator: 1 -> 2',
    'new: unset -> "x"',
    'num_epochs: 10.0 -> unset',
  ):
    assert text in message
  assert 'log_every' not in message and 'added_since' not in message
  assert '\n' not in message
  assert sorted(p.name for p in tmp_path.iterdir()) == ['config.json', 'metrics']


def test_a_start_that_failed_locks_nobody_out(tmp_path):
  run = Workdir(tmp_path)
  open_run(run, make_config())
  found = open_run(run, make_config(seed=1))  # nothing was trained
  assert found.changed == ('seed: 0 -> 1',)
  assert read_config(run).seed == 1
  assert open_run(run, make_config(seed=1)) == RunIdentity(found.config_hash, ())


def test_other_changes_are_recorded_each_in_a_new_file(tmp_path):
  run = Workdir(tmp_path)
  first = open_run(run, make_config())
  second = make_config(
    **{'log_every': 9, 'stop_at_epoch': 3.0, 'data.workers': 4, 'eval.protocols.knn.k': 20}
  )
  found = open_run(run, second)
  assert found.config_hash == first.config_hash
  assert set(found.changed) == {
    'log_every: 50 -> 9',
    'stop_at_epoch: null -> 3.0',
    'data.workers: 0 -> 4',
    'eval.protocols.knn.k: 10 -> 20',
  }
  assert open_run(run, second).changed == ()
  assert open_run(run, make_config()).changed != ()
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'config-1.json',
    'config-2.json',
    'config.json',
  ]
  assert read(tmp_path / 'config-1.json')['changed'] == list(found.changed)
  assert read(tmp_path / 'config.json')['config']['log_every'] == 50


def test_hash_depends_on_trajectory_keys_only_and_not_on_order():
  base = {'a': 1, 'b': {'c': 2, 'd': 3.0}, 'log_every': 1}
  reordered = {'log_every': 99, 'b': {'d': 3.0, 'c': 2}, 'a': 1, 'eval': {'x': 1}}
  assert hash_config(base) == hash_config(reordered)
  assert hash_config(base) != hash_config({**base, 'a': 2})
  # Pinned: another hash for the same config would cut old results off.
  text = b'{"a":1,"b.c":[1,2.5]}'
  assert hash_config({'b': {'c': [1, 2.5]}, 'a': 1}) == hashlib.sha256(text).hexdigest()[:12]


def test_foreign_directories_are_refused_and_untouched(tmp_path):
  (tmp_path / 'thesis.tex').write_text('text')
  with pytest.raises(UserError, match=r"holds 'thesis.tex' and is not a run"):
    open_run(Workdir(tmp_path), make_config())
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']
  with pytest.raises(UserError, match='is a file'):
    open_run(Workdir(tmp_path / 'thesis.tex'), make_config())
  with pytest.raises(UserError, match='cannot be written'):
    open_run(Workdir(tmp_path / 'thesis.tex' / 'run'), make_config())
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'config.json').write_text('{"hidden_size": 768}')
  with pytest.raises(UserError, match='was not written by clr-jax'):
    open_run(Workdir(other), make_config())
  assert (other / 'config.json').read_text() == '{"hidden_size": 768}'
  empty = tmp_path / 'empty'
  empty.mkdir()
  (empty / '.nfs01').write_text('')
  open_run(Workdir(empty), make_config())


@pytest.mark.parametrize('kind', ['pipe', 'folder', 'link to nowhere', 'link to itself'])
def test_a_config_of_another_kind_is_damaged(tmp_path, kind):
  """A pipe would never end; a run whose config is lost may not begin anew."""
  run = Workdir(tmp_path)
  open_run(run, make_config())
  path = tmp_path / 'config.json'
  path.unlink()
  if kind.startswith('link'):
    path.symlink_to('config.json' if kind.endswith('itself') else 'nowhere')
  else:
    (os.mkfifo if kind == 'pipe' else os.mkdir)(path)
  for call in (lambda: open_run(run, make_config()), lambda: read_config(run)):
    with pytest.raises(UserError, match=r'config.json is damaged or was not written by clr-jax'):
      call()


def test_a_directory_without_access_is_said_to_be_that(tmp_path, monkeypatch):
  run = Workdir(tmp_path)
  open_run(run, make_config())

  def refuse(path):
    raise PermissionError(errno.EACCES, 'Permission denied', str(path))

  with monkeypatch.context() as patched:
    patched.setattr(config_records, 'read_file', refuse)
    with pytest.raises(UserError, match=r'config.json cannot be read \(Permission denied\): make'):
      read_config(run)
  monkeypatch.setattr(os, 'lstat', refuse)
  with pytest.raises(UserError, match=r'no access to .* \(Permission denied\)'):
    read_config(run)


@pytest.mark.parametrize('change', [{'imports': ['x']}, {'imports': 3}, {'config': {'a.b': 1}}])
def test_a_record_that_no_run_writes_is_damaged(tmp_path, change):
  run = Workdir(tmp_path)
  open_run(run, make_config())
  path = run.path / 'config.json'
  path.write_text(json.dumps({**read(path), **change}))
  with pytest.raises(UserError, match=r'config.json.* is damaged or was not written by clr-jax'):
    read_config(run)


@pytest.mark.parametrize('number', [None, 2])
def test_another_format_is_refused_in_one_sentence(tmp_path, number):
  run = Workdir(tmp_path)
  open_run(run, make_config())
  path = run.path / 'config.json'
  other = {**read(path), 'format': number}
  path.write_text(json.dumps({k: v for k, v in other.items() if v is not None}))
  for call in (lambda: open_run(run, make_config()), lambda: read_config(run)):
    with pytest.raises(UserError, match=rf'another version .*\(format {number}, this') as error:
      call()
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('number', [errno.EACCES, errno.EROFS])
def test_a_workdir_that_cannot_be_written_is_bad_input(tmp_path, monkeypatch, number):
  run = Workdir(tmp_path)
  open_run(run, make_config())

  def refuse(path, content):
    raise OSError(number, 'Refused', str(path))

  monkeypatch.setattr(identity, 'atomic_write', refuse)
  with pytest.raises(UserError, match=r'cannot be written \(Refused\): make it writable or give'):
    open_run(run, make_config(log_every=7))
  number = errno.ENOSPC
  with pytest.raises(OSError, match='Refused'):  # train says to make room
    open_run(run, make_config(log_every=7))


def test_configs_that_are_not_data_are_refused(tmp_path):
  config = make_config()
  with config.unlocked():
    config.function = np.sin
  with pytest.raises(UserError, match=r"^function=<ufunc 'sin'> is a ufunc: use numbers"):
    open_run(Workdir(tmp_path), config)


def test_read_config_gives_the_last_config_back(tmp_path):
  run = Workdir(tmp_path)
  with pytest.raises(UserError, match='is not a run'):
    read_config(run)
  found = open_run(run, make_config())
  open_run(run, make_config(log_every=7))
  config = read_config(run)
  assert read_config_hash(run) == found.config_hash
  assert config.log_every == 7
  assert config.data.mean == (0.5, 0.25)
  assert config.clip == math.inf
  assert config.stop_at_epoch is None
  assert config.is_locked
  again = open_run(run, config)  # what was read is the same config
  assert again == (found.config_hash, ())


def test_only_process_zero_writes(tmp_path, monkeypatch):
  run = Workdir(tmp_path / 'run')
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  found = open_run(run, make_config())
  record(run, 0.5)
  assert not run.path.exists()
  monkeypatch.setattr(jax, 'process_index', lambda: 0)
  assert open_run(run, make_config()) == found


# ---------------------------------------------------------------- results


def test_results_come_back_oldest_first_with_their_circumstances(tmp_path, caplog):
  run = Workdir(tmp_path)
  assert read_results(run) == []
  record(run, 0.5)
  record(run, float('nan'), protocol='a/b')
  record(run, np.float32(0.25), params={'eps': np.float32(2), 'norm': math.inf})
  (run.results / f'{0:020d}-broken.json').write_text('{"value": 1')
  (run.results / f'{1:020d}-list.json').write_text('[]')
  (run.results / f'{2:020d}-half.json').write_text('{"value": 1, "metric": "top1"}')
  whole = next(run.results.glob('*1-*-knn-top1.json')).read_text()
  for i, large in enumerate(('1' * 400, '1' * 5000), 3):  # no float; no int for Python either
    (run.results / f'{i:020d}-large.json').write_text(whole.replace('0.5', large))
  os.mkfifo(run.results / f'{5:020d}-pipe.json')
  results = read_results(run)
  assert len(caplog.records) == 1 and 'skipped 6 damaged results' in caplog.text
  assert [r['value'] for r in results if math.isfinite(r['value'])] == [0.5, 0.25]
  assert math.isnan(results[1]['value'])
  assert results[2]['params'] == {'eps': 2.0, 'norm': 'inf'}
  assert set(results[0]) == {
    'metric',
    'value',
    'protocol',
    'params',
    'features',
    'step',
    'checkpoint',
    'config_hash',
    'code_version',
    'compiler_options',
    'libraries',
    'data',
    'data_checksum',
    'seed',
    'device',
    'cores',
    'seconds',
    'time',
  }
  assert results[0]['device'] == '8 x cpu'
  assert results[0]['libraries']['jax'] == jax.__version__
  assert results[0]['libraries']['orbax-checkpoint']
  assert results[0]['code_version'].startswith(clr_jax.__version__)
  for path in run.results.glob('*top1.json'):  # strict JSON
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_code_version(tmp_path, monkeypatch):
  package = tmp_path / 'clr_jax' / '__init__.py'
  package.parent.mkdir()
  package.write_text('')
  monkeypatch.setattr(clr_jax, '__file__', str(package))

  def version():
    provenance.code_version.cache_clear()
    return provenance.code_version()

  def git(*arguments):
    identity = ['-c', 'user.name=a', '-c', 'user.email=b@c']
    subprocess.run(['git', '-C', tmp_path, *identity, *arguments], check=True, capture_output=True)

  assert version() == clr_jax.__version__  # no checkout
  git('init')
  assert version() == clr_jax.__version__  # no commit
  git('add', '.')
  git('commit', '-m', 'x')
  clean = version()
  assert clean.startswith(f'{clr_jax.__version__}+g')
  assert not clean.endswith('dirty')
  (tmp_path / 'README.md').write_text('')
  git('add', '.')
  git('commit', '-m', 'y')
  assert version() == clean  # the code is the same
  package.write_text('changed')
  assert version() == f'{clean}.dirty'
  monkeypatch.setenv('PATH', '')
  assert version() == clr_jax.__version__  # no git
  provenance.code_version.cache_clear()


# ---------------------------------------------------------------- table
def test_table_averages_over_draws(tmp_path):
  run = Workdir(tmp_path)
  params = {'solver': 'lbfgs', 'label_fraction': 0.01, 'l2_chosen_by': 'held-out', 'seed': 0}
  for draw, value in enumerate([0.6, 0.7, 0.8]):
    chosen = {'l2': 10.0**draw, 'iterations': draw + 5, 'draw': draw}
    record(run, value, protocol='linear', params={**params, **chosen})
  record(run, 0.7, protocol='linear', params={**params, 'l2': 1.0, 'draw': 1})  # measured again
  record(run, 0.9, protocol='linear', params={**params, 'label_fraction': 1.0, 'l2': 1.0})
  record(run, 0.5, protocol='linear', params={**params, 'draw': 0}, features='pixels')
  record(run, 0.95, step=20, params={'k': 20, 'metric': 'cosine'})
  lines = format_table(read_results(run)).splitlines()
  assert [' '.join(line.split()) for line in lines] == [
    'protocol params features metric value step',
    # t(0.975, 2) = 4.3027; 4.3027 * 10 / sqrt(3) = 24.84
    'linear solver=lbfgs label_fraction=0.01 trained top1 70.00 +- 24.84 % (n=3) 10',
    'linear solver=lbfgs label_fraction=1 trained top1 90.00 % 10',
    'linear solver=lbfgs label_fraction=0.01 pixels top1 50.00 % 10',
    'knn k=20 trained top1 95.00 % 20',
  ]
  column = lines[0].index('features')
  assert {line[column:].split()[0] for line in lines} == {'features', 'trained', 'pixels'}


def test_table_shows_the_params_that_tell_rows_apart(tmp_path):
  run = Workdir(tmp_path)
  for standardize in (True, False):
    record(run, 0.5, params={'k': 20, 'standardize': standardize, 'solver': 'x'})
  record(run, 63.25, metric='rank', protocol='rank', params={})
  text = format_table(read_results(run))
  assert 'k=20 standardize=True solver=x' in text
  assert 'k=20 standardize=False solver=x' in text
  assert ' 63.25 ' in text
