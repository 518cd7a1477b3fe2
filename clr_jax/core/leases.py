"""Leases: locks for object stores and for disks without `flock`.

A lease is an object that its holder renews. A lease that was not renewed for EXPIRES_SECONDS
belongs to a dead process and may be taken over. Its age comes from the clock of the store or file
server only, so the clocks of the machines do not matter.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from etils import epath

RENEW_SECONDS = 10.0
EXPIRES_SECONDS = 50.0
_LOOK_SECONDS = 1.0


class Seen(NamedTuple):
  """State of an existing lease.

  Attributes:
    version: changes with every renewal.
    age: seconds since the last renewal.
    content: text written by its holder.
  """

  version: Any
  age: float
  content: bytes


class Place(Protocol):
  """Location of a lease; writing methods return the new version, or None if they came too late."""

  def create(self, content: bytes) -> Any: ...
  def look(self) -> Seen | None: ...
  def renew(self, version: Any, content: bytes) -> Any: ...
  def take(self, version: Any, content: bytes) -> Any: ...
  def remove(self, version: Any) -> None: ...


class Lease:
  """A lease taken by `acquire`; a thread renews it until `release`."""

  def __init__(self, place: Place, version: Any, content: bytes, lost: Callable[[], object]):
    self._place, self._version, self._content, self._lost = place, version, content, lost
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._keep, daemon=True)
    self._thread.start()

  def release(self) -> None:
    """Releases the lease at once."""
    self._ended.set()
    self._thread.join()
    with contextlib.suppress(Exception):  # otherwise it expires
      self._place.remove(self._version)

  def _keep(self) -> None:
    while not self._ended.wait(RENEW_SECONDS):
      try:
        version = self._place.renew(self._version, self._content)
      except Exception:  # store clients raise many types; the next attempt may succeed
        continue
      if version is None:
        self._lost()
        return
      self._version = version


def acquire(
  place: Place, content: bytes, *, say: Callable[[Seen], object], lost: Callable[[], object]
) -> Lease | Seen:
  """Takes a lease, unless another process renews it; waits to find out.

  Args:
    place: location of the lease.
    content: unique identification of this process.
    say: called before waiting for up to EXPIRES_SECONDS.
    lost: called from a thread if another process takes the lease nevertheless.

  Returns:
    The lease, or the state of the other holder's lease.
  """
  first: Seen | None = None
  while True:
    version = place.create(content)
    seen = None if version is not None else place.look()
    if seen is not None and seen.age > EXPIRES_SECONDS:
      version = place.take(seen.version, content)
    elif seen is not None and first is not None and seen.version != first.version:
      return seen
    elif seen is not None and first is None:
      first = seen
      say(seen)
    if version is not None:
      return Lease(place, version, content, lost)
    time.sleep(_LOOK_SECONDS)


class StoredObject:
  """A place in Google Cloud Storage: an object with conditional writes."""

  def __init__(self, path: epath.Path):
    import fsspec  # with gcsfs, in the extra gcs

    self._store: Any = fsspec.filesystem('gs')
    self._bucket, _, self._name = os.fspath(path).partition('://')[2].partition('/')

  def create(self, content: bytes) -> str | None:
    """Writes if there is no lease."""
    return self._write('0', content)

  def renew(self, version: str, content: bytes) -> str | None:
    """Writes if the version is unchanged or the lease is gone."""
    return self._write(version, content)

  take = renew

  def look(self) -> Seen | None:
    """Reads the lease; None if there is none."""
    try:
      headers, raw = self._store.call('GET', 'b/{}/o/{}', self._bucket, self._name)
      resource = json.loads(raw)
      generation = resource['generation']
      _, content = self._store.call(
        *('GET', 'b/{}/o/{}', self._bucket, self._name), alt='media', generation=generation
      )
    except FileNotFoundError:
      return None
    now = email.utils.parsedate_to_datetime(headers['Date'])
    age = (now - datetime.datetime.fromisoformat(resource['updated'])).total_seconds()
    return Seen(generation, max(age, 0.0), content)

  def remove(self, version: str) -> None:
    """Deletes the lease if its version is unchanged."""
    with contextlib.suppress(FileNotFoundError, FileExistsError):
      self._store.call(
        *('DELETE', 'b/{}/o/{}', self._bucket, self._name), ifGenerationMatch=version
      )

  def _write(self, version: str, content: bytes) -> str | None:
    upload = self._store.base.replace('/storage/v1/', '/upload/storage/v1/')
    try:
      found = self._store.call(
        *('POST', f'{upload}b/{{}}/o', self._bucket),
        **{'uploadType': 'media', 'name': self._name, 'ifGenerationMatch': version},
        headers={'Content-Type': 'application/json'},
        data=content,
        json_out=True,
      )
    except FileExistsError:  # the version differs
      # The client retries a request whose answer was lost; the conflict may be with our own write.
      seen = self.look()
      if seen is None and version != '0':  # it was deleted
        return self.create(content)
      return seen.version if seen is not None and seen.content == content else None
    return found['generation']


class File:
  """A place on a disk; the file server's clock is read by writing another file."""

  def __init__(self, path: epath.Path):
    self._path = os.fspath(path)

  def create(self, content: bytes) -> tuple[int, int] | None:
    """Writes if there is no lease."""
    try:
      descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
      return None
    with os.fdopen(descriptor, 'wb') as file:
      file.write(content)
      file.flush()
      return _version(os.fstat(file.fileno()))

  def look(self) -> Seen | None:
    """Reads the lease; None if there is none."""
    try:
      with open(self._path, 'rb') as file:  # opening contacts the server, `stat` may be cached
        found, content = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
      return None
    return Seen(_version(found), self._now() - found.st_mtime, content)

  def renew(self, version: tuple[int, int], content: bytes) -> tuple[int, int] | None:
    """Writes if the version is unchanged or the lease is gone."""
    seen = self.look()
    if seen is None:  # it was deleted
      return self.create(content)
    if seen.version != version:
      return None
    os.utime(self._path)
    return _version(os.stat(self._path))

  def take(self, version: tuple[int, int], content: bytes) -> tuple[int, int] | None:
    """Replaces the lease if its version is unchanged."""
    aside = self._aside()
    try:
      os.rename(self._path, aside)  # only one of several processes succeeds
    except FileNotFoundError:
      return None
    taken = _version(os.stat(aside)) == version
    if not taken:  # this is the lease of a faster process: put it back
      with contextlib.suppress(FileExistsError):
        os.link(aside, self._path)
    os.unlink(aside)
    return self.create(content) if taken else None

  def remove(self, version: tuple[int, int]) -> None:
    """Deletes the lease if its version is unchanged."""
    seen = self.look()
    if seen is not None and seen.version == version:
      os.unlink(self._path)

  def _aside(self) -> str:
    return f'{self._path}.{secrets.token_hex(4)}'

  def _now(self) -> float:
    probe = self._aside()
    with open(probe, 'wb') as file:
      file.write(b'x')
      file.flush()
      now = os.fstat(file.fileno()).st_mtime
    os.unlink(probe)
    return now


def _version(found: os.stat_result) -> tuple[int, int]:
  return found.st_ino, found.st_mtime_ns
