"""Output of Orbax and TensorStore beside their errors."""

import asyncio
import logging as python_logging
import sys

import pytest
import tensorstore

from clr_jax.rundir import orbax_log

FULL = OSError('RESOURCE_EXHAUSTED: Error writing "a/b" [OS error 28: No space left on device]')


def record(error, message, file='/x/orbax/a.py', *args):
  info = (type(error), error, None) if error else None
  return python_logging.LogRecord('absl', python_logging.ERROR, file, 1, message, args, info)


@pytest.mark.parametrize(
  ('file', 'message', 'kept'),
  [
    ('/x/orbax/a.py', 'failed: no room\nmore', 'failed: no room'),
    ('/x/orbax/a.py', 'cannot remove', 'cannot remove (no room)'),
    ('/x/orbax/a.py', '', ' (no room)'),
    ('/x/other/a.py', 'ours\nmore', None),
  ],
)
def test_a_stack_that_orbax_logs_becomes_a_line(file, message, kept):
  logged = record(OSError('no room'), message, file)
  assert orbax_log.orbax_log.filter(logged)
  assert (logged.exc_info is None) == (kept is not None)
  assert logged.getMessage() == (message if kept is None else kept)


def test_what_is_left_out():
  assert not orbax_log.orbax_log.filter(record(FULL, 'the save failed'))
  read_only = record(None, 'Given directory is read only=%s', '/x/orbax/a.py', 'folder')
  assert not orbax_log.orbax_log.filter(read_only)


def test_the_disks_own_words():
  assert orbax_log.reason_of(FULL) == 'No space left on device'
  assert orbax_log.reason_of(OSError('one\ntwo')) == 'one'
  fixed = PermissionError(1, 'Operation not permitted', '/run/checkpoints/22')
  assert orbax_log.reason_of(fixed) == 'Operation not permitted'
  assert not orbax_log.orbax_log.filter(record(fixed, 'the save failed'))


def test_closed_loops_are_not_printed(monkeypatch):
  """TensorStore's threads call into a closed event loop for each array after a failed save."""
  seen = []
  monkeypatch.setattr(sys, 'unraisablehook', lambda found: seen.append(str(found.exc_value)))
  orbax_log.shorten()
  orbax_log.shorten()
  loop, (promise, future) = asyncio.new_event_loop(), tensorstore.Promise.new()
  for call in (lambda _: loop.call_soon_threadsafe(print), lambda _: int('another')):
    future.add_done_callback(call)
  loop.close()
  promise.set_result(0)
  assert seen == ["invalid literal for int() with base 10: 'another'"]
  orbax_log._hooks.pop()
