"""Shortens the output of Orbax and TensorStore about errors that they also raise."""

from __future__ import annotations

import logging as python_logging
import re
import sys
from collections.abc import Callable
from typing import Any

from absl import logging

from clr_jax.core.storage import first_line

_OF_DISK = re.compile(
  'No space left on device|Disk quota exceeded|File too large|Read-only file system|'
  'Permission denied|Operation not permitted|Input/output error|Stale file handle'
)
_NO_NEWS = (
  'Given directory is read only',  # on purpose
  'Unable to find the step %d for del',  # it was set aside
)
_hooks: list[Callable[..., Any]] = []  # hooks replaced by `_without_closed_loops`


def shorten() -> None:
  """Installs the filters; may be called again."""
  logging.get_absl_logger().addFilter(orbax_log)  # has no effect the second time
  if sys.unraisablehook is not _without_closed_loops:
    _hooks.append(sys.unraisablehook)
    sys.unraisablehook = _without_closed_loops


def reason_of(error: BaseException) -> str:
  """The disk's error at the end of a long message, or else the first line of the message."""
  found = _OF_DISK.search(str(error))
  return found[0] if found else first_line(error)


class _OrbaxLog(python_logging.Filter):
  """Filter that shortens stacks logged by Orbax to a line, and drops those about disk errors."""

  def filter(self, record: python_logging.LogRecord) -> bool:
    if 'orbax' in record.pathname and str(record.msg).startswith(_NO_NEWS):
      return False
    if not record.exc_info or 'orbax' not in record.pathname:
      return True
    message, error = record.getMessage(), record.exc_info[1]
    if error and _OF_DISK.search(str(error)):
      return False
    if error and str(error) not in message:
      message = f'{message} ({first_line(error)})'
    record.msg, record.args, record.exc_info = message.partition('\n')[0][:300], (), None
    return True


orbax_log = _OrbaxLog()


def _without_closed_loops(unraisable: Any) -> None:
  """Hook that drops TensorStore's output for each array after a failed save.

  Its threads call into the closed event loop of Orbax and cannot raise; the error that the save
  raises has the reason.
  """
  error = unraisable.exc_value
  if not (isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'):
    _hooks[-1](unraisable)
