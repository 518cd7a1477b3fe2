"""Places for the runs of a sweep: disjoint accelerators or CPU cores. Imports no JAX."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from clr_jax.core.cores import available_cores
from clr_jax.core.errors import UserError

_VISIBLE = 'CUDA_VISIBLE_DEVICES'
_PROBE = 'import jax; found = jax.local_devices(); print(found[0].platform, len(found))'
_PROBE_SECONDS = 300
_CORES_PER_RUN = 4  # by default; small networks leave more of them idle


class Slot(NamedTuple):
  """A place for one run at a time.

  Attributes:
    environment: environment variables that restrict the run to its accelerators.
    cores: CPU cores of the run; () = all.
  """

  environment: Mapping[str, str] = {}
  cores: tuple[int, ...] = ()

  @property
  def gpus(self) -> list[str]:
    """Names of its GPUs."""
    return [name for name in self.environment.get(_VISIBLE, '').split(',') if name]


class Machine(NamedTuple):
  """The devices of this host: JAX's platform ('gpu', 'tpu', 'cpu') and their number."""

  platform: str
  count: int


def find_machine() -> Machine:
  """Asks another process for the devices, because JAX keeps the accelerators that it has used.

  Raises:
    UserError: JAX cannot use the platform that JAX_PLATFORMS names.
  """
  if os.environ.get('JAX_PLATFORMS') == 'cpu':
    return Machine('cpu', 1)
  try:
    found = subprocess.run(
      [sys.executable, '-c', _PROBE],
      capture_output=True,
      text=True,
      timeout=_PROBE_SECONDS,
      stdin=subprocess.DEVNULL,
    )
  except subprocess.TimeoutExpired:
    raise UserError(
      'JAX does not find the devices of this machine: check that no other process uses them, or '
      'set JAX_PLATFORMS=cpu'
    ) from None
  if found.returncode:
    reason = (found.stderr.strip().splitlines() or ['no message'])[-1]
    raise UserError(
      f'JAX cannot use the devices of this machine ({reason}): correct JAX_PLATFORMS, or set '
      f'JAX_PLATFORMS=cpu'
    )
  platform, count = found.stdout.split()[-2:]
  return Machine('gpu' if platform in ('cuda', 'rocm') else platform, int(count))


def make_slots(
  machine: Machine,
  jobs: int | None,
  devices_per_run: int | None,
  *,
  taken: Collection[str] = (),
) -> list[Slot]:
  """Divides the devices of a machine, or its cores.

  Args:
    machine: result of `find_machine`.
    jobs: number of runs at once; None = as many as there are GPUs for, 1 on a TPU, and 1 for every
      4 cores on CPUs.
    devices_per_run: GPUs of each run; None = 1.
    taken: names of GPUs to leave out.

  Raises:
    UserError: more runs or devices than there are.
  """
  if machine.platform == 'gpu':
    return _of_gpus([n for n in gpu_names(machine.count) if n not in taken], jobs, devices_per_run)
  if devices_per_run is not None:
    raise UserError(
      f'--devices_per_run={devices_per_run} has no effect on a {machine.platform.upper()}: leave '
      f'it out'
    )
  if machine.platform == 'cpu':
    return _of_cores(jobs)
  if jobs not in (None, 1):
    raise UserError(
      f'--jobs={jobs} is not possible on a {machine.platform.upper()}, which one process uses: '
      f'leave it out, and the runs follow one another'
    )
  return [Slot()]


def gpu_names(count: int) -> list[str]:
  """Names of the first GPUs of this process for CUDA_VISIBLE_DEVICES."""
  visible = [name.strip() for name in os.environ.get(_VISIBLE, '').split(',') if name.strip()]
  return visible[:count] if len(visible) >= count else [str(i) for i in range(count)]


def _of_gpus(names: Sequence[str], jobs: int | None, per_run: int | None) -> list[Slot]:
  per_run, count = per_run or 1, len(names)
  if per_run > count:
    raise UserError(
      f'--devices_per_run={per_run} is more than the number of GPUs: give at most {count}'
    )
  most = count // per_run
  if jobs is not None and jobs > most:
    raise UserError(
      f'--jobs={jobs} runs of {per_run} GPU{"s" * (per_run > 1)} each do not fit on {count} GPUs: '
      f'give at most --jobs={most}'
    )
  groups = [names[i * per_run : (i + 1) * per_run] for i in range(jobs or most)]
  return [Slot({_VISIBLE: ','.join(group)}) for group in groups]


def _of_cores(jobs: int | None) -> list[Slot]:
  cores = available_cores()
  jobs = jobs or max(1, len(cores) // _CORES_PER_RUN)
  if jobs > len(cores):
    raise UserError(f'--jobs={jobs} is more than the number of cores: give at most {len(cores)}')
  if jobs == 1:
    return [Slot()]
  bounds = [i * len(cores) // jobs for i in range(jobs + 1)]
  return [Slot({}, tuple(cores[a:b])) for a, b in itertools.pairwise(bounds)]
