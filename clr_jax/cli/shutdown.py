"""Propagates a failure of one process of a run to all others."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from typing import Any, NoReturn

import jax

_KEY = 'clr_jax/ended'  # -> 'PROCESS CODE', in the store of JAX's coordination service
_POLL_SECONDS = 1.0
_WAIT_SECONDS = 10  # for the others to have noticed


class CoordinatedShutdown:
  """Ends all processes of `jax.distributed` when one of them fails, watching in a thread.

  A process that just exits waits 5 minutes in JAX's shutdown barrier, while the others wait for it
  in a collective, and then all are aborted with a stack trace. Instead the one that fails writes
  its exit code into the coordination service's store, and all exit at once with that code.
  """

  def __init__(self):
    from jax._src import distributed  # no public way to its store; Orbax takes the same one

    self._client: Any = distributed.global_state.client
    self._ended = threading.Event()
    self._ending = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Stops watching; JAX's own shutdown follows."""
    self._ended.set()
    self._thread.join()

  def wait_if_ending(self) -> None:
    """Never returns where another process is ending this one, which caused the error here."""
    if self._ending.is_set():
      self._thread.join()

  def fail(self, code: int) -> NoReturn:
    """Ends all processes, this one too, with `code`; whatever is being saved must be complete."""
    self.close()
    with contextlib.suppress(Exception):  # another one was first, or the coordinator is gone
      self._client.key_value_set(_KEY, f'{jax.process_index()} {code}')
    self._exit(code)

  def _watch(self) -> None:
    while not self._ended.wait(_POLL_SECONDS):
      try:
        process, code = self._client.key_value_try_get(_KEY).split()
      except Exception:  # not there: nobody has failed
        continue
      self._ending.set()
      print(
        f'clr-jax: ends with code {code}, as process {process} did: its message says why',
        file=sys.stderr,
        flush=True,
      )
      self._exit(int(code))

  def _exit(self, code: int) -> NoReturn:
    """Exits once all processes are here, process 0 (the coordinator) last, past JAX's barrier."""
    with contextlib.suppress(Exception):  # some process is dead or hangs
      self._client.wait_at_barrier(_KEY, _WAIT_SECONDS * 1000)
    if jax.process_index() == 0:
      time.sleep(1)
    exit_now(code)


def exit_now(code: int) -> NoReturn:
  """Ends this process and its children without waiting for its threads, which print no more."""
  for child in multiprocessing.active_children():  # nobody else ends the readers of the data
    child.terminate()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
