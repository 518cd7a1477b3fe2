"""A mesh with one axis, 'data', over all devices, and the sharding of every array on it."""

from __future__ import annotations

import os

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clr_jax.core.errors import UserError
from clr_jax.core.storage import first_line
from clr_jax.core.types import PyTree, TrainState
from clr_jax.ops.tables import ROW_MULTIPLE

AXIS = 'data'


def check_devices() -> None:
  """Raises a UserError if JAX finds no device of a platform in JAX_PLATFORMS."""
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:  # JAX asserts if the plugin is missing
    asked = os.environ.get('JAX_PLATFORMS', '')
    reason = f' ({first_line(error).partition(". (set")[0]})' if str(error) else ''
    raise UserError(
      f'JAX_PLATFORMS={asked}: JAX finds no such device{reason}: set it to a platform of this '
      f'machine, such as cpu, or unset it'
    ) from error


def make_mesh(devices=None) -> Mesh:
  """Makes a mesh over `devices` (default: all). XLA inserts the collectives."""
  devices = np.asarray(jax.devices() if devices is None else devices)
  if ROW_MULTIPLE % devices.size:
    raise UserError(
      f'{devices.size} devices do not divide {ROW_MULTIPLE} table rows: use a power of two of at '
      f'most {ROW_MULTIPLE} devices'
    )
  return Mesh(devices, (AXIS,))


def on_cpu(mesh: Mesh) -> bool:
  """True if the devices of the mesh are CPUs."""
  return mesh.devices.flat[0].platform == 'cpu'


def on_tpu(mesh: Mesh) -> bool:
  """True if the devices of the mesh are TPUs."""
  return mesh.devices.flat[0].platform == 'tpu'


def launches_matter(mesh: Mesh) -> bool:
  """True if the devices of the mesh are GPUs, where launching a kernel takes microseconds."""
  return mesh.devices.flat[0].platform in ('gpu', 'cuda', 'rocm')


def memory_of(mesh: Mesh) -> int | None:
  """Bytes of memory of a device of the mesh; None if unknown."""
  device = mesh.local_devices[0]
  stats = device.memory_stats() or {}
  if device.platform == 'cpu' and hasattr(os, 'sysconf'):  # CPU devices share the machine's memory
    total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return total // len(mesh.local_devices)
  return stats.get('bytes_limit')


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding that replicates an array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
  """Sharding that splits the first axis over the devices."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def by_largest_axis(mesh: Mesh, tree: PyTree) -> PyTree:
  """Splits each leaf along its largest axis divisible by the number of devices, else replicates.

  Ties go to the first axis. For values of which every device needs only its own part.
  """

  def of(leaf) -> NamedSharding:
    axes = [i for i, length in enumerate(leaf.shape) if length and length % mesh.size == 0]
    if not axes:
      return replicated(mesh)
    axis = max(axes, key=lambda i: (leaf.shape[i], -i))
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))

  return jax.tree.map(of, tree)


def train_state_shardings(
  mesh: Mesh, state: TrainState, *, shard_optimizer: bool = False
) -> TrainState:
  """Shardings of a train state: per-example tables by rows, everything else replicated.

  Args:
    shard_optimizer: split the optimizer state as in `by_largest_axis` (stage 1 of ZeRO, Rajbhandari
      et al., https://arxiv.org/abs/1910.02054).
  """

  def of(path, _):
    return by_rows(mesh) if any(_name(p) == 'per_example' for p in path) else replicated(mesh)

  shardings = jax.tree_util.tree_map_with_path(of, state)
  if shard_optimizer:
    shardings = shardings.replace(opt_state=by_largest_axis(mesh, state.opt_state))
  return shardings


def _name(entry) -> str | None:
  return getattr(entry, 'key', None) or getattr(entry, 'name', None)
