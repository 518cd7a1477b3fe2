"""What can happen to a command becomes one sentence and an exit code, in all of its processes.

JAX is imported late: its flags must be set before.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

from clr_jax.core.errors import EXIT_CANNOT_WRITE, EXIT_LOST, EXIT_PREEMPTED, RunStopped, UserError
from clr_jax.core.storage import first_line

# What JAX's collectives and its coordination service say when a process does not answer.
_LOST = re.compile(
  'gloo|nccl|heartbeat|coordination|unavailable|deadline_exceeded|connection (reset|closed)', re.I
)


def tell(error: BaseException) -> int:
  """Says what ended a command; returns the exit code."""
  code, message = _sentence(error)
  if message is None:
    traceback.print_exception(error)
  elif message:
    print(f'clr-jax: {message}', file=sys.stderr, flush=True)
  return code


def _sentence(error: BaseException) -> tuple[int, str | None]:
  """The exit code and what to say: '' if it is told already, None for what nobody foresaw."""
  if isinstance(error, UserError):
    return 2, str(error)
  if isinstance(error, KeyboardInterrupt):
    return 130, 'interrupted: the same command goes on'
  if isinstance(error, SystemExit):
    return error.code if isinstance(error.code, int) else 0, ''
  import jax

  if isinstance(error, RunStopped):
    return error.code, str(error)
  text = str(error) if isinstance(error, jax.errors.JaxRuntimeError) else ''
  if 'RESOURCE_EXHAUSTED' in text or 'out of memory' in text.lower():
    return 1, (
      'out of device memory: lower batch_size, model.width or the image size, or set '
      'precision=bfloat16'
    )
  if jax.process_count() > 1 and _LOST.search(text):
    return EXIT_LOST, (
      f'another process of this run is gone ({first_line(error)}): the same command goes on from '
      f'the last checkpoint'
    )
  return 1, None


def run_guarded(run: Callable) -> None:
  """Turns what can happen to a long run into one sentence and an exit code.

  Of several processes none is left waiting for one that failed.
  """
  import jax

  from clr_jax.cli import shutdown as processes
  from clr_jax.training import loop as train

  together = processes.EndTogether() if jax.process_count() > 1 else None
  try:
    with _sigterm_ends():
      run(train)
  except BaseException as error:
    if together is not None:
      together.wait_if_ending()
    elif _sentence(error)[1] is None:
      raise
    code = tell(error)
    if together is not None and code not in (0, EXIT_PREEMPTED):  # preempted, all agree
      together.fail(code)
    if code == EXIT_CANNOT_WRITE:  # Orbax's and TensorStore's threads meet the same error
      processes.exit_now(code)
    raise SystemExit(code) from None
  finally:
    if together is not None:
      together.close()


@contextlib.contextmanager
def _sigterm_ends() -> Iterator[None]:
  """Ends with the code of a preempted run where no training loop handles SIGTERM better."""
  from clr_jax.training import callbacks as runtime

  def end(number, frame):
    del number, frame
    message = 'stopped by SIGTERM: the same command goes on'
    raise SystemExit(tell(RunStopped(message, EXIT_PREEMPTED)))

  if threading.current_thread() is not threading.main_thread() or not runtime.owns_sigterm():
    yield
    return
  previous = signal.signal(signal.SIGTERM, end)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)
