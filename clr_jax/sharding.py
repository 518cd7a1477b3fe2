"""One mesh with one axis, 'data', over all devices; where every array lies on it."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clr_jax.ops.tables import ROW_MULTIPLE
from clr_jax.types import PyTree, UserError

AXIS = 'data'


def make_mesh(devices=None) -> Mesh:
  """A mesh over `devices` (default: all). Global-batch semantics: XLA writes the collectives."""
  devices = np.asarray(jax.devices() if devices is None else devices)
  if ROW_MULTIPLE % devices.size:
    raise UserError(
      f'{devices.size} devices do not divide {ROW_MULTIPLE} table rows: use a power of two, '
      f'at most {ROW_MULTIPLE}'
    )
  return Mesh(devices, (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
  """The first axis is split over the devices."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def train_state_shardings(mesh: Mesh, state: PyTree) -> PyTree:
  """Shardings for a `TrainState`: per-example tables by rows, all else replicated."""

  def of(path, _):
    return by_rows(mesh) if any(_name(p) == 'per_example' for p in path) else replicated(mesh)

  return jax.tree_util.tree_map_with_path(of, state)


def _name(entry) -> str | None:
  return getattr(entry, 'key', None) or getattr(entry, 'name', None)
