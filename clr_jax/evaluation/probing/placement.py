"""Placement of features for the classifiers: many rows are split over the devices, and in blocks.

1.28 million rows of 2,048 features are 10.5 GB, and their logits of 1,000 classes 5.1 GB. Up to
`SMALL` bytes everything stays on one device, in one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from clr_jax.core.types import Array
from clr_jax.ops import sharding
from clr_jax.ops.similarity import at_least_float32

SMALL = 2**30
"""Bytes of features and logits that stay on one device."""
BLOCK = 2**28
"""Bytes of the logits of a block of rows on each device."""


class Shape(NamedTuple):
  """Layout of rows in memory.

  Attributes:
    devices: number of devices over which the rows of a block are split.
    blocks: number of blocks, which are used one after the other.
    rows: rows of a block, on all devices together.
  """

  devices: int
  blocks: int
  rows: int


def shape_of(num_rows: int, row_bytes: int, logit_bytes: int, devices: int) -> Shape:
  """Chooses the layout of rows.

  Args:
    num_rows: N.
    row_bytes: bytes of the features of a row.
    logit_bytes: bytes of the logits of a row.
    devices: number of devices that are available.
  """
  if num_rows * (row_bytes + logit_bytes) <= SMALL:
    return Shape(1, 1, num_rows)
  most = max(1, BLOCK // logit_bytes) * devices
  blocks = -(-num_rows // most)
  rows = -(-num_rows // (blocks * devices)) * devices
  return Shape(devices, blocks, rows)


def mesh_for(num_bytes: int, devices: Sequence[Any]) -> Mesh | None:
  """The mesh over which features of so many bytes are split; None = they stay on one device."""
  if num_bytes <= SMALL or len(devices) == 1:
    return None
  return Mesh(np.asarray(devices), (sharding.AXIS,))


def in_blocks(h: Any, label: Any, num_classes: int, *, heads: int = 1) -> tuple[Array, Array]:
  """Places features for passes over all of them.

  Args:
    h: [N, F].
    label: [N].
    num_classes: number of classes C of each head.
    heads: number of heads that are fitted together.

  Returns:
    ([K, R, F] in float32 or wider, [K, R] int32), R split over the devices of this process. Rows
    that fill the last block up have label -1.
  """
  dtype = jnp.promote_types(jnp.result_type(h), jnp.float32)
  devices = jax.local_devices()
  logits = heads * num_classes * dtype.itemsize
  shape = shape_of(len(h), h.shape[1] * dtype.itemsize, logits, len(devices))
  if shape.blocks == shape.devices == 1:
    return at_least_float32(h)[None], jnp.asarray(label, jnp.int32)[None]
  over = _blocks_over(shape, devices)

  def place(values: Any, dtype: Any, fill: int) -> Array:
    values = np.asarray(values)

    def part(index: Any) -> np.ndarray:
      rows = np.arange(shape.blocks * shape.rows).reshape(shape.blocks, shape.rows)[index[:2]]
      found = values[np.minimum(rows, len(values) - 1)].astype(dtype)
      found[rows >= len(values)] = fill
      return found

    whole = (shape.blocks, shape.rows, *values.shape[1:])
    return jax.make_array_from_callback(whole, over, part)

  return place(h, dtype, 0), place(label, np.int32, -1)


def by_rows(h: Any, num_classes: int) -> Array:
  """Places features [N, F] for minibatches of random rows, float32 or wider.

  Rows are split over the devices of this process if there are many; zeros are then added up to a
  multiple of the devices.
  """
  dtype = jnp.promote_types(jnp.result_type(h), jnp.float32)
  devices = jax.local_devices()
  count = len(devices)
  shape = shape_of(len(h), h.shape[1] * dtype.itemsize, num_classes * dtype.itemsize, count)
  if shape.devices == 1:
    return at_least_float32(h)
  h = np.asarray(h)
  length = -(-len(h) // count) * count

  def part(index: Any) -> np.ndarray:
    found = h[index].astype(dtype)
    start, stop, _ = index[0].indices(length)
    return np.pad(found, ((0, stop - start - len(found)), (0, 0)))

  return jax.make_array_from_callback((length, h.shape[1]), _rows_over(devices), part)


def abstract_blocks(
  num_rows: int, width: int, num_classes: int, devices: Sequence[Any], *, heads: int = 1
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
  """Shapes and shardings of `in_blocks` for float32 features [num_rows, width] on `devices`."""
  shape = shape_of(num_rows, 4 * width, 4 * heads * num_classes, len(devices))
  over = _blocks_over(shape, devices)
  rows = (shape.blocks, shape.rows)
  return (
    jax.ShapeDtypeStruct((*rows, width), jnp.float32, sharding=over),
    jax.ShapeDtypeStruct(rows, jnp.int32, sharding=over),
  )


def abstract_rows(
  num_rows: int, width: int, num_classes: int, devices: Sequence[Any]
) -> jax.ShapeDtypeStruct:
  """Shape and sharding of `by_rows` for float32 features [num_rows, width] on `devices`."""
  count = shape_of(num_rows, 4 * width, 4 * num_classes, len(devices)).devices
  length = -(-num_rows // count) * count
  return jax.ShapeDtypeStruct((length, width), jnp.float32, sharding=_rows_over(devices[:count]))


def replicated_like(rows: jax.ShapeDtypeStruct) -> Sharding:
  """Sharding of a value that each device of `abstract_rows` has."""
  where = rows.sharding
  assert where is not None
  return NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else where


def on_one_device(tree: Any) -> Any:
  """Copies arrays that lie on several devices to the default one."""
  single = lambda x: x if len(x.devices()) == 1 else jnp.asarray(np.asarray(x))  # noqa: E731
  return jax.tree.map(single, tree)


def _blocks_over(shape: Shape, devices: Sequence[Any]) -> Sharding:
  if shape.blocks == shape.devices == 1:
    return SingleDeviceSharding(devices[0])
  mesh = Mesh(np.asarray(devices[: shape.devices]), (sharding.AXIS,))
  return NamedSharding(mesh, PartitionSpec(None, sharding.AXIS))


def _rows_over(devices: Sequence[Any]) -> Sharding:
  if len(devices) == 1:
    return SingleDeviceSharding(devices[0])
  return NamedSharding(Mesh(np.asarray(devices), (sharding.AXIS,)), PartitionSpec(sharding.AXIS))
