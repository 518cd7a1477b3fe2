"""`clr-jax ARGUMENTS...` in a sweep: `python -m clr_jax.cli.sweep.child PARENT CORES ARGUMENTS...`.

PARENT is the id of the process of the sweep: if that process is killed, this one gets SIGTERM.
CORES are the CPU cores to use, such as 0,1; '' = all.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from clr_jax.cli import main as cli

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def end_with(parent: int) -> None:
  """Sends SIGTERM to this process when its parent ends; on Linux only."""
  if sys.platform != 'linux':
    return
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
  if os.getppid() != parent:  # it has ended before
    os.kill(os.getpid(), signal.SIGTERM)


def use_cores(cores: str) -> None:
  """Restricts this process to some CPU cores, where the system can; XLA makes a thread for each."""
  if cores and hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, [int(core) for core in cores.split(',')])


def main() -> None:
  """Runs the command."""
  _, parent, cores, *arguments = sys.argv
  end_with(int(parent))
  use_cores(cores)
  sys.argv = ['clr-jax', *arguments]
  cli.main()


if __name__ == '__main__':
  main()
