"""Locks and leases: one holder, free when it ends, and by the clock of the store alone."""

import os

import pytest
from etils import epath

from clr_jax.core import leases
from clr_jax.core.locks import FileLock, LocksUnsupported, one_at_a_time

fcntl = pytest.importorskip('fcntl')


def test_one_holds_a_file_until_it_lets_go(tmp_path):
  first, second = FileLock(tmp_path / 'x'), FileLock(tmp_path / 'x')
  assert first.acquire() and not second.acquire()
  first.write(b'a longer text')
  first.write(b'me')
  assert (tmp_path / 'x').read_bytes() == b'me'
  first.release(remove=True)
  assert not (tmp_path / 'x').exists()
  assert second.acquire()
  first.release(remove=True)  # nothing any more
  assert (tmp_path / 'x').exists()
  second.release()
  assert first.acquire(wait=True)
  first.release()


def test_a_removed_file_is_not_held(tmp_path):
  """Its holder removed it between the moment when another opened it and that when it locked it."""
  first, second = FileLock(tmp_path / 'x'), FileLock(tmp_path / 'x')
  assert first.acquire()
  os.unlink(tmp_path / 'x')
  assert second.acquire()
  first.release(remove=True)  # not the other's file
  assert (tmp_path / 'x').exists()
  second.release()


@pytest.mark.filterwarnings('ignore:.*fork')
def test_a_forked_child_does_not_hold_it(tmp_path):
  first, second = FileLock(tmp_path / 'x'), FileLock(tmp_path / 'x')
  assert first.acquire()
  (ask, answer), (begun, begin) = os.pipe(), os.pipe()
  child = os.fork()
  if not child:
    os.close(answer)
    os.write(begin, b'x')
    os.read(ask, 1)  # until the parent is done
    os._exit(0)
  assert os.read(begun, 1) == b'x' and not second.acquire()
  assert first._descriptor is not None
  os.close(first._descriptor)  # as when it is killed
  assert second.acquire()
  second.release()
  for descriptor in (answer, ask, begun, begin):
    os.close(descriptor)
  os.waitpid(child, 0)


def test_no_locks_there(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError(95, 'Operation not supported')

  monkeypatch.setattr(fcntl, 'flock', refuse)
  with pytest.raises(LocksUnsupported):
    FileLock(tmp_path / 'x').acquire()
  with one_at_a_time(epath.Path(tmp_path / 'x')):  # then all do the work
    pass


# ---------------------------------------------------------------- leases
class Place:
  """One in memory, with a clock of its own."""

  def __init__(self):
    self.now, self.found, self.version = 0.0, None, 0

  def create(self, content):
    return None if self.found else self._write(content)

  def look(self):
    return self.found and leases.Seen(self.version, self.now - self.found[1], self.found[0])

  def renew(self, version, content):
    return self._write(content) if self.found and version == self.version else None

  take = renew

  def remove(self, version):
    if version == self.version:
      self.found = None

  def _write(self, content):
    self.found, self.version = (content, self.now), self.version + 1
    return self.version


@pytest.fixture
def clock(monkeypatch):
  """Looking again takes a second of each place's time."""
  places = []

  def sleep(seconds):
    for place in places:
      place.now += seconds
      for action in list(place.actions):
        if place.now >= action[0]:
          place.actions.remove(action)
          action[1]()

  monkeypatch.setattr(leases.time, 'sleep', sleep)

  def make():
    place = Place()
    place.actions = []
    places.append(place)
    return place

  return make


def acquire(place, content=b'new', lost=None):
  said = []
  return leases.acquire(place, content, say=said.append, lost=lost), said


def test_a_lease_that_nobody_renews_is_taken_over(clock):
  place = clock()
  place.create(b'old')
  place.now = 20.0
  found, said = acquire(place)
  assert isinstance(found, leases.Lease) and place.found[0] == b'new'
  assert [(seen.age, seen.content) for seen in said] == [(20.0, b'old')]
  assert 50 < place.now <= 52
  found.release()
  assert place.found is None
  place.create(b'old')
  place.now += 1000
  found, said = acquire(place)
  assert isinstance(found, leases.Lease) and not said  # at once
  found.release()


def test_a_lease_that_is_renewed_is_not(clock):
  place = clock()
  version = place.create(b'old')
  place.actions.append((9, lambda: place.renew(version, b'old')))
  found, said = acquire(place)
  assert isinstance(found, leases.Seen) and found.content == b'old' and len(said) == 1
  assert place.now == 9


def test_a_lease_that_is_given_back_meanwhile(clock):
  place = clock()
  version = place.create(b'old')
  place.actions.append((3, lambda: place.remove(version)))
  found, _ = acquire(place)
  assert isinstance(found, leases.Lease) and place.now == 3
  found.release()


def test_who_lost_a_lease_is_told(clock, monkeypatch):
  monkeypatch.setattr(leases, 'RENEW_SECONDS', 0.01)
  place, lost = clock(), []
  found, _ = acquire(place, lost=lambda: lost.append(True))
  place.found = None
  place.create(b'other')
  found._thread.join(10)
  assert lost == [True] and place.found[0] == b'other'
  found.release()
  assert place.found[0] == b'other'


def test_a_lease_on_a_disk(tmp_path):
  place = leases.File(epath.Path(tmp_path / 'x'))
  assert place.look() is None
  first = place.create(b'a')
  assert first and place.create(b'b') is None
  os.utime(tmp_path / 'x', (1, 1))
  old = place.look()
  assert old.age > 1e9 and old.content == b'a'
  assert place.take((0, 0), b'b') is None and place.look().version == old.version
  second = place.take(old.version, b'b')
  assert second and place.renew(old.version, b'a') is None
  assert place.look().content == b'b' and place.look().age < 100
  place.remove(old.version)
  assert place.renew(second, b'b')
  place.remove(place.look().version)
  assert os.listdir(tmp_path) == []
