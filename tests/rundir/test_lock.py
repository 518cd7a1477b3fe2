"""One run in a directory, what a refused one leaves, and images that were moved."""

import errno
import json
import os

import numpy as np
import pytest

from clr_jax import data
from clr_jax.core import leases, signals
from clr_jax.core.errors import UserError
from clr_jax.core.storage import atomic_write
from clr_jax.rundir import identity, lock, paths
from clr_jax.rundir.config_records import read_config
from clr_jax.rundir.identity import hash_in
from clr_jax.rundir.results import find_results
from clr_jax.rundir.workdir import Workdir
from tests.rundir.configs import make_config, record

WITHOUT_EFFECT = {'log_every', 'stop_at_epoch', 'data.workers', 'eval'}


def test_the_second_run_is_told_who_holds_the_directory(tmp_path):
  run = Workdir(tmp_path / 'a' / 'run')
  with lock.hold(run):
    who = json.loads((run.path / '.lock').read_text())
    with pytest.raises(UserError, match='is in use by another run') as refused, lock.hold(run):
      pass
    assert all(str(who[key]) in str(refused.value) for key in ('host', 'pid', 'since'))
    atomic_write(run.path / 'config.json', '{}')
  assert [path.name for path in run.path.iterdir()] == ['config.json']
  with lock.hold(run):  # again free
    pass


def test_without_locks_there_is_a_lease(tmp_path, monkeypatch):
  def refuse(self, **_):
    raise lock.LocksUnsupported

  monkeypatch.setattr(lock.FileLock, 'acquire', refuse)
  monkeypatch.setattr(leases, '_LOOK_SECONDS', 0.01)
  monkeypatch.setattr(leases, 'RENEW_SECONDS', 0.05)
  run = Workdir(tmp_path)
  with (
    lock.hold(run),
    pytest.raises(UserError, match='is in use by another run'),
    lock.hold(run),
  ):
    pass
  assert list(tmp_path.iterdir()) == []
  with lock.hold(run):
    assert [path.name for path in tmp_path.iterdir()] == ['.lease']
    signals._before_end[-1]()  # SIGTERM ends the process at once
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('there', [True, False])
def test_a_refused_run_leaves_nothing(tmp_path, there):
  run = Workdir(tmp_path / 'a' / 'run')
  if there:
    (run.path / 'mine').mkdir(parents=True)

  def write():
    for name in ('config.json', 'metrics/x.jsonl', 'checkpoints/m/x', 'tensorboard/x'):
      atomic_write(run.path / name, 'x')

  with pytest.raises(UserError, match='damaged image'), lock.hold(run):
    write()
    raise UserError('damaged image')
  assert [p.name for p in tmp_path.rglob('*')] == (['a', 'run', 'mine'] if there else [])
  for error, saved in ((KeyboardInterrupt, 'm'), (UserError, '6')):
    run = Workdir(tmp_path / saved)
    with pytest.raises(error), lock.hold(run):  # it can go on
      write()
      atomic_write(run.checkpoints / saved / 'x', 'x')
      raise error
    assert len(list(run.path.iterdir())) == 4
  with pytest.raises(UserError), lock.hold(run):  # not new
    atomic_write(run.path / 'more', 'x')
    raise UserError
  assert len(list(run.path.iterdir())) == 5


@pytest.mark.parametrize('number', [errno.EACCES, errno.EROFS])
def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch, number):
  def refuse(*_):
    raise OSError(number, 'Refused')

  monkeypatch.setattr(lock.os, 'open', refuse)
  with (
    pytest.raises(UserError, match=r'cannot be written \(Refused\)'),
    lock.hold(Workdir(tmp_path)),
  ):
    pass


def test_a_directory_below_one_without_access(tmp_path, monkeypatch):
  def refuse(path):
    raise PermissionError(errno.EACCES, 'Permission denied', str(path))

  monkeypatch.setattr(lock.pathlib.Path, 'exists', refuse)
  with (
    pytest.raises(UserError, match=r'run cannot be written \(Permission denied\)'),
    lock.hold(Workdir(tmp_path / 'run')),
  ):
    pass


def test_a_folder_that_cannot_be_read_is_said_before_any_work(tmp_path, monkeypatch):
  (tmp_path / 'results').mkdir()
  listed = os.listdir

  def refuse(path):
    if os.path.basename(path) == 'results':
      raise PermissionError(errno.EACCES, 'Permission denied', str(path))
    return listed(path)

  monkeypatch.setattr(os, 'listdir', refuse)
  with (
    pytest.raises(UserError, match=r'results cannot be read \(Permission denied\): make it'),
    lock.hold(Workdir(tmp_path)),
  ):
    pass


# ---------------------------------------------------------------- paths
FACTS = {'number': 4, 'image shape': [8, 8, 1], 'classes': 2, 'checksum': 'a', 'sample': 'b'}


@pytest.mark.parametrize('name', ['n' * 300, '/'.join(['n' * 200] * 25)])
def test_a_name_that_no_disk_takes(tmp_path, name):
  with (
    pytest.raises(UserError, match=r'cannot be used \(File name too long\): give another path'),
    lock.hold(Workdir(tmp_path / name)),
  ):
    pass
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('kind', ['folder', 'pipe', 'link'])
def test_a_lock_of_another_kind_is_refused(tmp_path, kind):
  path = tmp_path / '.lock'
  {'folder': os.mkdir, 'pipe': os.mkfifo, 'link': path.symlink_to}[kind](path)
  with (
    pytest.raises(UserError, match='lock is not a file: remove it'),
    lock.hold(Workdir(tmp_path)),
  ):
    pass


@pytest.mark.parametrize('to', ['nothing', 'link'])
def test_a_link_to_nothing_is_no_place(tmp_path, to):
  (tmp_path / 'link').symlink_to(to)
  with (
    pytest.raises(UserError, match='link is a link to nothing: give a directory'),
    lock.hold(Workdir(tmp_path / 'link')),
  ):
    pass
  assert [p.name for p in tmp_path.iterdir()] == ['link']


def test_a_full_disk_leaves_no_lock(tmp_path, monkeypatch):
  def full(*args):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'pwrite', full)
  with pytest.raises(OSError, match='No space') as error, lock.hold(Workdir(tmp_path / 'run')):
    pass
  assert error.value.filename == str(tmp_path / 'run' / '.lock')
  assert not any(tmp_path.iterdir())


def begun(run, name, facts=FACTS):
  """A run that has trained."""
  config = make_config(**{'data.name': name})
  found = identity.open_run(run, config, WITHOUT_EFFECT, facts)
  atomic_write(run.metrics / 'row.jsonl', '{"step": 1}')
  return found.config_hash


@pytest.mark.parametrize(
  ('recorded', 'now'),
  [
    ({}, {}),
    ({'checksum': None}, {}),  # streamed, then resident
    ({}, {'checksum': None}),
    ({'checksum': None}, {'checksum': None}),
  ],
)
def test_the_same_images_may_lie_elsewhere(tmp_path, recorded, now):
  run = Workdir(tmp_path)
  before = begun(run, 'folder:/a/images', {**FACTS, **recorded})
  moved = make_config(**{'data.name': 'folder:/b/images'})
  found = identity.open_run(run, moved, WITHOUT_EFFECT, {**FACTS, **now})
  assert found.changed == ('data.name: "folder:/a/images" -> "folder:/b/images"',)
  assert found.config_hash == before == hash_in(run, moved, WITHOUT_EFFECT)
  assert read_config(run).data.name == 'folder:/b/images'  # what evaluation and figures use


@pytest.mark.parametrize(
  ('name', 'changed', 'words'),
  [
    ('folder:/b', {'checksum': 'x'}, r'not those .*\(checksum differs\)'),
    ('folder:/b', {'checksum': None, 'sample': 'x'}, r'\(sample differs\)'),
    ('folder:/b', {'number': 5, 'classes': 3}, r'\(number, classes differs\)'),
    ('folder:/b', {'checksum': None, 'sample': None}, 'has no checksum of its images'),
    ('npz:/a', {}, 'another config'),
    ('digits', {}, 'another config'),
  ],
)
def test_other_images_elsewhere_are_refused(tmp_path, name, changed, words):
  run = Workdir(tmp_path)
  begun(run, 'folder:/a')
  before = {path: path.read_bytes() for path in tmp_path.rglob('*.json')}
  with pytest.raises(UserError, match=words):
    other = make_config(**{'data.name': name})
    identity.open_run(run, other, WITHOUT_EFFECT, {**FACTS, **changed})
  assert {path: path.read_bytes() for path in tmp_path.rglob('*.json')} == before


def test_images_that_changed_where_they_are(tmp_path):
  run, config = Workdir(tmp_path), make_config(**{'data.name': 'folder:/a'})
  begun(run, 'folder:/a')
  identity.open_run(run, config, WITHOUT_EFFECT, {**FACTS, 'sample': 'x'})  # another library
  with pytest.raises(UserError, match=r'have changed since it began \(checksum\)'):
    identity.open_run(run, config, WITHOUT_EFFECT, {**FACTS, 'checksum': 'x'})


def test_recorded_paths_are_absolute(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', '/home/me')
  config = make_config(**{'data.name': 'folder:../x', 'data.data_dir': '~/tfds'})
  with config.unlocked():
    config.init_from, config.eval.data = 'runs/a', 'x/{split}.npz'
    config.eval.protocols.transfer = {'target': ('digits', 'npz:x.npz', 'cifar10/v:1.0.0')}
  found = paths.with_absolute_paths(config)
  assert found.data.name == f'folder:{tmp_path.parent}/x' and found.data.data_dir == '/home/me/tfds'
  assert (
    found.init_from == f'{tmp_path}/runs/a' and found.eval.data == f'npz:{tmp_path}/x/{{split}}.npz'
  )
  targets = ('digits', f'npz:{tmp_path}/x.npz', 'cifar10/v:1.0.0')
  assert found.eval.protocols.transfer.target == targets
  assert config.data.name == 'folder:../x' and found.seed == config.seed
  assert paths.with_absolute_paths(found).to_dict() == found.to_dict()
  run = Workdir(tmp_path / 'run')
  hashed = begun(run, 'folder:images')  # of an earlier version
  again = make_config(**{'data.name': f'folder:{tmp_path}/images'})
  found = identity.open_run(run, again, WITHOUT_EFFECT, FACTS)
  assert found == (hashed, ())


@pytest.mark.parametrize('name', ['npz:{split}.npz', 'folder:x'])
def test_images_that_are_gone(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  config = make_config(**{'data.name': data.absolute_name(name)})
  with config.unlocked():
    config.data.train_split, config.eval.data = 'train[:5]', None
  with pytest.raises(UserError, match=r'no longer in .*--config.data.name=(npz|folder):PATH'):
    paths.refuse_lost_data(config, config, Workdir(tmp_path))
  (tmp_path / 'x').mkdir()
  np.savez(tmp_path / 'train.npz', x=0)
  paths.refuse_lost_data(config, config, Workdir(tmp_path))
  recorded = config.copy_and_resolve_references()
  with config.unlocked():
    config.eval.data = 'folder:/nowhere'
  with pytest.raises(UserError, match=r'no longer in /nowhere: .*--config.eval.data=folder:PATH'):
    paths.refuse_lost_data(config, config, Workdir(tmp_path))
  paths.refuse_lost_data(config, recorded, Workdir(tmp_path))  # it is refused where it is loaded


# ---------------------------------------------------------------- order
def test_results_are_ordered_without_a_clock(tmp_path, monkeypatch):
  run = Workdir(tmp_path)
  atomic_write(run.results / f'{1_700_000_000_000_000_000:020d}-000000-knn-top1.json', '{}')  # old
  for value in (0.1, 0.2, 0.3):
    record(run, value)
    monkeypatch.setattr('time.time_ns', lambda value=value: int(1e18 * (1 - value)))
  assert [r['value'] for r in find_results(run).records.values()] == [0.1, 0.2, 0.3]


def test_results_that_cannot_be_listed(tmp_path):
  atomic_write(Workdir(tmp_path).path / 'results', 'a file')
  with pytest.raises(UserError, match='results cannot be read'):
    find_results(Workdir(tmp_path))
