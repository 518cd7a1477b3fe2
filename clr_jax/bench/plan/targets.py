"""Targets of `clr-jax plan`: a table of hardware with sources, and devices to compile for."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name

GPUS_PER_HOST = 8
CPU_DEVICES = 64  # largest number of CPU devices
# Share of a GPU's memory that JAX reserves unless XLA_PYTHON_CLIENT_MEM_FRACTION is set.
# https://docs.jax.dev/en/latest/gpu_memory_allocation.html
GPU_SHARE = 0.75
# Minimum seconds between the starts of separately launched kernels: 3.8 us for kernels of 2.9 us
# (V100, https://developer.nvidia.com/blog/cuda-graphs/) and less on newer hosts. As a part of a
# lower bound, this is a round number below measured ones.
LAUNCH_SECONDS = 2e-6


class Gpu(NamedTuple):
  """Properties of a GPU for XLA's compiler, sizes in bytes.

  Attributes:
    capability: CUDA's compute capability.
    features: features of the capability: 'ACCELERATED_FEATURES' is the suffix of sm_90a.
    cores: number of multiprocessors.
    fpus: number of float32 units in each.
    clock_ghz: boost clock.
    l2: size of the level 2 cache.
    shared: shared memory of a core.
  """

  capability: tuple[int, int]
  features: str
  cores: int
  fpus: int
  clock_ghz: float
  l2: int
  shared: int


class Chip(NamedTuple):
  """A device with its vendor's specifications.

  Attributes:
    kind: JAX's device kind, the key of `hardware.peak`; '' for CPUs.
    platform: 'cuda', 'tpu' or 'cpu'.
    memory: bytes of memory; None for CPUs, which share the machine's.
    bandwidth: memory bandwidth, bytes per second.
    interconnect: bytes per second sent to devices of the same host (GPU) or slice (TPU).
    gpu: properties for XLA's compiler.
    clock_hz: clock of a TPU, to convert cycles to time.
  """

  kind: str
  platform: str
  memory: int | None = None
  bandwidth: float | None = None
  interconnect: float | None = None
  gpu: Gpu | None = None
  clock_hz: float | None = None


_HOPPER = Gpu((9, 0), 'ACCELERATED_FEATURES', 132, 128, 1.98, 50 * 2**20, 228 * 2**10)
CHIPS = {
  # https://www.nvidia.com/en-us/data-center/h200/ (141 GB, 4.8 TB/s, NVLink 900 GB/s both ways);
  # H100 and H200 have the same chip: https://resources.nvidia.com/en-us-tensor-core, the white
  # paper of the H100's architecture (SXM5: 132 multiprocessors, 50 MB, 228 KiB); clock and usable
  # memory as XLA has them for its own compilations (xla/backends/gpu/target_config/specs).
  'h200': Chip('NVIDIA H200', 'cuda', 151_397_597_184, 4.8e12, 450e9, _HOPPER),
  # https://www.nvidia.com/en-us/data-center/h100/ (SXM: 80 GB, 3.35 TB/s, NVLink 900 GB/s)
  'h100': Chip('NVIDIA H100', 'cuda', 84_942_979_072, 3.35e12, 450e9, _HOPPER),
  # https://www.nvidia.com/en-us/data-center/a100/ (SXM, 80 GB: 2,039 GB/s, NVLink 600 GB/s) and the
  # white paper of the A100's architecture (108 multiprocessors, 40 MB, 164 KiB)
  'a100': Chip(
    'NVIDIA A100',
    'cuda',
    85_100_068_864,
    2.039e12,
    300e9,
    Gpu((8, 0), 'NONE', 108, 64, 1.41, 40 * 2**20, 164 * 2**10),
  ),
  # https://cloud.google.com/tpu/docs/v5e, v5p, v6e; of the interconnect's two directions one. The
  # clock is what gives the peak with the matrix units there (4 of 128x128, 8 of 128x128, 2 of
  # 256x256; each place multiplies and adds once a cycle).
  'v5e': Chip('TPU v5 lite', 'tpu', 16 * 10**9, 819e9, 200e9, clock_hz=197e12 / (4 * 128**2 * 2)),
  'v5p': Chip('TPU v5p', 'tpu', 95 * 10**9, 2.765e12, 600e9, clock_hz=459e12 / (8 * 128**2 * 2)),
  'v6e': Chip('TPU v6e', 'tpu', 32 * 10**9, 1.638e12, 400e9, clock_hz=918e12 / (2 * 256**2 * 2)),
  'cpu': Chip('', 'cpu'),
}
_FORMS = 'h200:8, h100:8, a100:8, v5e:4x4, v5p:2x2x1, v6e:4x4 or cpu:8'


class Target(NamedTuple):
  """Devices of one kind: 'v5e:4x4' is 16 of `chip`, `shape` (4, 4)."""

  name: str
  chip: Chip
  shape: tuple[int, ...]

  @property
  def devices(self) -> int:
    return math.prod(self.shape)

  @property
  def hosts(self) -> int:
    """Number of hosts."""
    return -(-self.devices // GPUS_PER_HOST) if self.chip.platform == 'cuda' else 1

  @property
  def of_one_process(self) -> Target:
    """Devices of one process: those of a host, TPU chips 2x2."""
    if self.chip.platform == 'cpu':
      return self
    most = (GPUS_PER_HOST,) if self.chip.platform == 'cuda' else (2, 2, 1)
    shape = tuple(map(min, self.shape, most))
    name = f'{self.name.partition(":")[0]}:{"x".join(map(str, shape))}'
    return self._replace(name=name, shape=shape)

  @property
  def usable_memory(self) -> int | None:
    """Bytes of a device that JAX's allocator can use; None for CPUs."""
    if self.chip.memory is None or self.chip.platform != 'cuda':
      return self.chip.memory
    return int(_gpu_share() * self.chip.memory)


def parse(text: str) -> Target:
  """Parses `--target=KIND:SHAPE`.

  Raises:
    UserError: an unknown kind, a number or shape of devices that it cannot have, or a GPU whose
      share of memory for JAX (XLA_PYTHON_CLIENT_MEM_FRACTION) is not a number above 0.
  """
  kind, _, shape = text.partition(':')
  check_name(CHIPS, kind, 'kind of device in --target')
  chip = CHIPS[kind]
  axes = {'v5e': 2, 'v6e': 2, 'v5p': 3}.get(kind, 1)
  if not re.fullmatch('x'.join([r'[1-9]\d{0,3}'] * axes), shape):
    form = {1: 'the number of devices', 2: 'a shape such as 4x4', 3: 'a shape such as 2x2x1'}[axes]
    raise UserError(f'--target={text}: give {form} after the colon, as in {_FORMS}')
  target = Target(text, chip, tuple(map(int, shape.split('x'))))
  n = target.devices
  if n & (n - 1) or n > (CPU_DEVICES if kind == 'cpu' else 1024):
    most = CPU_DEVICES if kind == 'cpu' else 1024
    raise UserError(f'--target={text}: give a power of two of devices, at most {most}, not {n}')
  if chip.platform == 'tpu' and n > 1 and (target.shape[0] % 2 or target.shape[1] % 2):
    raise UserError(
      f'--target={text}: hosts of {kind} have 2x2 chips: give even numbers for the first two axes, '
      f'or ones for a single chip'
    )
  if chip.platform == 'cuda':
    _gpu_share()
  return target


def _gpu_share() -> float:
  text = os.environ.get('XLA_PYTHON_CLIENT_MEM_FRACTION') or str(GPU_SHARE)
  try:
    share = float(text)
  except ValueError:
    share = math.nan
  if not 0 < share < math.inf:
    raise UserError(
      f'XLA_PYTHON_CLIENT_MEM_FRACTION={text} is not a share of the memory of a GPU: set a number '
      f'such as 0.75, or unset it'
    )
  return share


def check_compiler(target: Target) -> None:
  """Raises a UserError with installation instructions if the compiler for `target` is missing."""
  extra, packages = {
    'cuda': ('cuda13', ('jax_plugins.xla_cuda13', 'jax_plugins.xla_cuda12')),
    'tpu': ('tpu', ('libtpu',)),
    'cpu': ('', ('jaxlib',)),
  }[target.chip.platform]
  if not any(map(_is_installed, packages)):
    raise UserError(
      f"--target={target.name} needs XLA's compiler for it, which is not installed: "
      f"pip install 'jax[{extra}]=={jax.__version__}' (no such device is needed)"
    )


def _is_installed(package: str) -> bool:
  try:
    return importlib.util.find_spec(package) is not None
  except ModuleNotFoundError:  # the parent package is missing, too
    return False


def compiler_versions() -> dict[str, str]:
  """Versions of installed packages with compilers besides jaxlib."""
  names = ('jax-cuda12-plugin', 'jax-cuda13-plugin', 'nvidia-cudnn-cu12', 'nvidia-cudnn-cu13')
  found = {}
  for name in (*names, 'libtpu'):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def prepare_process(target: Target) -> None:
  """Configures this process, before JAX starts, to use only CPUs."""
  jax.config.update('jax_platforms', 'cpu')
  if target.chip.platform == 'cpu':
    jax.config.update('jax_num_cpu_devices', target.devices)
  elif target.chip.platform == 'cuda':
    os.environ['JAX_SKIP_CUDA_CONSTRAINTS_CHECK'] = '1'  # there is no driver to check
  else:
    # Nobody is asked which TPU this machine is, nothing is locked, nothing is logged.
    os.environ |= {
      'TPU_SKIP_MDS_QUERY': '1',
      'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
      'TPU_WORKER_HOSTNAMES': 'localhost',
      'TPU_MIN_LOG_LEVEL': '3',
      'TPU_LOG_DIR': 'disabled',
      'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # several plans at a time
    }


def devices_of(target: Target) -> Sequence[Any]:
  """Devices to compile for; those of absent accelerators cannot execute anything.

  Raises:
    UserError: a shape that the compiler does not support.
  """
  chip = target.chip
  if chip.platform == 'cpu':
    return jax.devices('cpu')[: target.devices]
  try:
    if chip.gpu is not None:
      topology = topologies.get_topology_desc(
        platform='cuda',
        topology_name=target.name,
        target_config=gpu_config(chip),
        topology=f'1x{target.hosts}x{target.devices // target.hosts}',
      )
    else:
      alone = {'chips_per_host_bounds': [1, 1, 1]} if target.devices == 1 else {}
      topology = topologies.get_topology_desc(platform='tpu', topology_name=target.name, **alone)
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).partition('\n')[0]
    raise UserError(
      f'--target={target.name} is rejected by the compiler ({reason}): give another shape, as in '
      f'{_FORMS}'
    ) from error
  return topology.devices


def gpu_config(chip: Chip) -> str:
  """Text of a `GpuTargetConfigProto` that describes the GPU to XLA."""
  gpu = chip.gpu
  assert gpu is not None and chip.memory is not None and chip.bandwidth is not None
  (major, minor), kibi = gpu.capability, 2**10
  return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * kibi}
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block_optin: {gpu.shared - kibi}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  memory_bandwidth: {int(chip.bandwidth)}
  l2_cache_size: {gpu.l2}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {chip.memory}
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {gpu.features} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
  name: "{chip.kind}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip.kind}"
"""
