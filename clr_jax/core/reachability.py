"""Refusal of object stores that cannot be reached, for which their clients wait for minutes."""

from __future__ import annotations

import os
import socket
import threading
import time
import urllib.parse
import urllib.request

from clr_jax.core.errors import UserError

SECONDS = 5.0
"""Time in which a connection must be possible."""
_PAUSE_SECONDS = 0.5

_reached: set[tuple[str, int]] = set()  # by this process: later failures are left to the clients


def refuse_unreachable(path: str) -> None:
  """Opens a connection to the store of a path, once per process and store.

  Without a network the clients of stores retry for minutes.

  Args:
    path: a path of an object store, 'gs://...'.

  Raises:
    UserError: no connection within `SECONDS`.
  """
  if urllib.request.getproxies().keys() & {'https', 'all'}:  # only the clients know the way
    return
  host, port = _address()
  if (host, port) in _reached:
    return
  reasons = ['no answer']
  # In a thread, because looking up a name has no time limit of its own.
  thread = threading.Thread(target=_connect, args=(host, port, reasons), daemon=True)
  thread.start()
  thread.join(SECONDS + _PAUSE_SECONDS)
  if reasons[-1]:
    raise UserError(
      f'{"/".join(path.split("/")[:3])} cannot be reached ({host}: {reasons[-1]}, within '
      f'{SECONDS:.0f} s): check the network, or give a path on a disk'
    )
  _reached.add((host, port))


def _address() -> tuple[str, int]:
  """(host, port) of Google Cloud Storage, or of its emulator, as the clients choose it."""
  domain = os.environ.get('GOOGLE_CLOUD_UNIVERSE_DOMAIN') or 'googleapis.com'
  url = os.environ.get('STORAGE_EMULATOR_HOST') or f'https://storage.{domain}'
  if '://' not in url:
    url = f'http://{url}'
  parts = urllib.parse.urlsplit(url)
  return parts.hostname or url, parts.port or (80 if parts.scheme == 'http' else 443)


def _connect(host: str, port: int, reasons: list[str]) -> None:
  """Appends the reason of each failed try to `reasons`, and '' at success."""
  deadline = time.monotonic() + SECONDS
  while (remaining := deadline - time.monotonic()) > 0:
    try:
      socket.create_connection((host, port), timeout=remaining).close()
    except OSError as error:
      reasons.append(error.strerror or str(error))
      time.sleep(_PAUSE_SECONDS)
    else:
      reasons.append('')
      return
