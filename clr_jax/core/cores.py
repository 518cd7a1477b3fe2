"""The CPU cores of this process."""

import os


def available_cores() -> list[int]:
  """CPU cores that this process may use; XLA starts a thread for each."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))  # macOS
