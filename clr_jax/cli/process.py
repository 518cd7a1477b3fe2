"""Start and end of a command that uses JAX, in one or several processes."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable

import jax

from clr_jax.cli.exit import Outcome, outcome_of, report_error
from clr_jax.cli.shutdown import CoordinatedShutdown
from clr_jax.core import signals
from clr_jax.core.errors import (
  EXIT_CANNOT_WRITE,
  EXIT_FAILED,
  EXIT_LOST,
  EXIT_PREEMPTED,
  OtherProcessFailed,
  UserError,
)
from clr_jax.core.storage import first_line, read_file

# Messages of JAX's collectives and coordination service about a process that does not respond.
_LOST = re.compile(
  'gloo|nccl|heartbeat|coordination|unavailable|deadline_exceeded|connection (reset|closed)', re.I
)


def start_jax(args: argparse.Namespace, *, deterministic: bool) -> None:
  """Configures JAX before its first computation, and connects the processes of the run.

  Args:
    args: arguments with the options of multiple processes, such as `distributed`.
    deterministic: True for bit-reproducible programs on GPUs.

  Raises:
    UserError: incomplete options, or the processes cannot connect.
  """
  set_deterministic(deterministic)
  explicit = (args.coordinator, args.num_processes, args.process_id)
  if not args.distributed and explicit == (None, None, None):
    return
  if not args.distributed and None in explicit:
    raise UserError(
      '--coordinator, --num_processes and --process_id belong together: give all three, or '
      '--distributed where the cluster provides them'
    )
  if args.process_id is not None and args.process_id >= (args.num_processes or 2**31):
    raise UserError(
      f'--process_id={args.process_id} is invalid with --num_processes={args.num_processes}: give '
      f'a number from 0 to {args.num_processes - 1}'
    )
  try:
    jax.distributed.initialize(*explicit)
  except Exception as error:  # clients of clusters raise many types
    reason = ' '.join(re.split(r'\n\s*\n|```', str(error))[0].split())
    asks_api = 'KUBERNETES_SERVICE_HOST' in os.environ
    package = 'install the package kubernetes for --distributed, or ' if asks_api else ''
    raise UserError(
      f'the processes could not connect ({reason}): {package}give --coordinator, '
      f'--num_processes and --process_id'
    ) from None


def set_deterministic(deterministic: bool) -> None:
  """Makes XLA compile bit-reproducible programs on GPUs; call before JAX starts.

  Raises:
    UserError: XLA_FLAGS names a file that cannot be read.
  """
  xla_flags = _xla_flags()
  if deterministic and 'xla_gpu_deterministic_ops' not in xla_flags:
    os.environ['XLA_FLAGS'] = f'{xla_flags} --xla_gpu_deterministic_ops=true'.strip()


def _xla_flags() -> str:
  """The flags of XLA_FLAGS, which may name a file of flags instead."""
  text = os.environ.get('XLA_FLAGS', '').strip()
  if not text or text.startswith('-'):
    return text
  try:
    return ' '.join(read_file(text).decode().split())
  except (OSError, ValueError) as error:
    raise UserError(
      f'XLA_FLAGS={text} is neither a list of flags, such as --xla_dump_to=DIR, nor a file of them '
      f'({first_line(error)}): correct it, or unset it'
    ) from error


def run_with_exit_code(run: Callable[[], object]) -> None:
  """Calls `run`; on an error ends the process with a one-line message and an exit code.

  With several processes all of them end, so that none waits for one that failed or was stopped. A
  single process raises unexpected errors unchanged.
  """
  several = jax.process_count() > 1
  together = CoordinatedShutdown(signals.current()) if several else None
  try:
    run()
    if together is not None:
      together.finish()
  except BaseException as error:
    if together is not None:
      together.wait_if_ending()
      if isinstance(error, OtherProcessFailed):
        together.wait_for_other()
    outcome = _outcome_of(error)
    if together is None and outcome.message is None:
      raise
    code = report_error(error, outcome)
    if together is not None and code == EXIT_PREEMPTED:  # all processes agree
      together.leave(code)
    if together is not None and code:
      together.fail(code)
    if code == EXIT_CANNOT_WRITE:  # Orbax's and TensorStore's threads raise the same error
      signals.exit_now(code)
    raise SystemExit(code) from None
  finally:
    if together is not None:
      together.close()


def _outcome_of(error: BaseException) -> Outcome:
  """`outcome_of`, extended to errors of JAX's runtime."""
  text = str(error) if isinstance(error, jax.errors.JaxRuntimeError) else ''
  if 'RESOURCE_EXHAUSTED' in text or 'out of memory' in text.lower():
    return Outcome(
      EXIT_FAILED,
      'out of device memory: lower batch_size, model.width or the image size, or set '
      'precision=bfloat16',
    )
  if text and jax.process_count() > 1 and _LOST.search(text):
    return Outcome(
      EXIT_LOST,
      f'another process of this run is gone ({first_line(error)}): run the same command to resume '
      f'from the last checkpoint',
    )
  return outcome_of(error)
