"""Processes that read images: what they need, and what is said when one is killed."""

import signal
import sys

import pytest

from clr_jax.core.errors import RunStopped, UserError
from clr_jax.data import stream


class Usage:
  free = 1000


def test_processes_need_room_for_their_locks(monkeypatch):
  monkeypatch.setattr(stream.sys, 'platform', 'linux')
  monkeypatch.setattr(stream.shutil, 'disk_usage', lambda path: Usage)
  with pytest.raises(UserError, match=r'data.workers=2 needs shared memory \(it is full\)'):
    stream.check_workers(2)
  stream.check_workers(0)


def test_processes_need_shared_memory(monkeypatch):
  def lock(*args):
    raise OSError(30, 'Read-only file system')

  monkeypatch.setattr(stream.multiprocessing.get_context('spawn'), 'Lock', lock, raising=False)
  with pytest.raises(UserError, match=r'data.workers=2 .*Read-only file system.*data.workers=0'):
    stream.check_workers(2)


@pytest.mark.parametrize(
  ('code', 'words'),
  [
    (-signal.SIGBUS, 'was killed by SIGBUS: make /dev/shm larger'),
    (-signal.SIGKILL, 'was killed by SIGKILL: lower data.workers=2'),
    (-signal.SIGSEGV, 'was killed by SIGSEGV: '),
    (3, 'ended with code 3: '),
  ],
)
def test_a_reader_process_that_was_killed(code, words):
  error = RuntimeError(f'Worker process was terminated unexpectedly with exit code {code}. Search')
  with pytest.raises(RunStopped, match=words) as stopped, stream._named_end_of(2):
    raise error
  assert stopped.value.code == 1


def test_other_errors_are_left_as_they_are():
  with pytest.raises(RuntimeError, match='a bug'), stream._named_end_of(2):
    raise RuntimeError('a bug')


@pytest.mark.parametrize(('free', 'fits'), [(999, False), (1000, True)])
def test_free_shared_memory(monkeypatch, free, fits):
  monkeypatch.setattr(sys, 'platform', 'linux')
  monkeypatch.setattr(stream.shutil, 'disk_usage', lambda path: type('', (), {'free': free}))
  assert stream._fits_shared_memory(1000) == fits
