"""From a source to blocks of steps on the devices: resident or streamed, in the same order."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clr_jax.core.bounds import Count, CountOrZero, Seed
from clr_jax.core.consensus import Lockstep
from clr_jax.core.errors import UserError
from clr_jax.core.options import check
from clr_jax.core.types import Array, Batch
from clr_jax.data import order, stream
from clr_jax.data.base import Source

Block = dict[str, Array]
RESIDENT_LIMIT = 2 * 2**30  # most bytes of uint8 images that every device keeps


@functools.partial(jax.tree_util.register_dataclass, data_fields=['pixels'], meta_fields=['shape'])
@dataclasses.dataclass(frozen=True)
class Images:
  """Images on the devices, one row each, so that TPUs gather them without a copy.

  TPUs store an array [N, H, W, C] with the images innermost, so that each step would gather its
  batch from a reordered copy of the whole data set.

  Attributes:
    pixels: [N, H * W * C] uint8.
    shape: (H, W, C).
  """

  pixels: Any
  shape: tuple[int, ...]

  def __getitem__(self, index: Array) -> Array:
    """[B, H, W, C] of the rows `index` [B]."""
    return self.pixels[index].reshape(-1, *self.shape)


def process_rows(
  sharding: NamedSharding,
  batch_size: int,
  process: int,
  process_of: Callable[[Any], int] = lambda device: device.process_index,
) -> np.ndarray:
  """Rows of a batch sharded by `sharding` that one process must load, sorted, [R] int64."""
  rows = {
    row
    for device, (where,) in sharding.devices_indices_map((batch_size,)).items()
    if process_of(device) == process
    for row in range(batch_size)[where]
  }
  return np.array(sorted(rows), np.int64)


class Pipeline:
  """Global batches on the devices, in an order that depends on (seed, step) alone.

  Attributes:
    mode: 'resident' (all images on every device, blocks carry indices) or 'streamed'.
    resident: {'image': Images, 'label': [N] int32 or None, 'extent': [N, 2] int32 or None},
      replicated over the mesh; None when streamed. Pass it to the jitted step as an argument.
    num_examples: N.
    batch_size: B, of the global batch.
    steps_per_epoch: N // B.
    wait_seconds: seconds that the consumer of `blocks` has waited so far.
  """

  def __init__(
    self,
    source: Source,
    *,
    batch_size: int,
    seed: int,
    mesh: Mesh,
    mode: str,
    workers: int,
    prefetch: int,
    drop_labels: bool,
  ):
    """`make_pipeline` has checked the arguments; mode is 'resident' or 'streamed'."""
    self.mode = mode
    self.num_examples = source.num_examples
    self.batch_size = batch_size
    self.steps_per_epoch = order.steps_per_epoch(
      num_examples=self.num_examples, batch_size=batch_size
    )
    self.wait_seconds = 0.0
    self._source = source
    self._seed = seed
    self._workers = workers
    self._prefetch = prefetch
    self._drop_labels = drop_labels
    self._sharding = NamedSharding(mesh, P(None, 'data'))
    self._rows = process_rows(NamedSharding(mesh, P('data')), batch_size, jax.process_index())
    self.resident = _replicated(source, mesh, drop_labels) if mode == 'resident' else None

  def blocks(self, chunks: Iterable[tuple[int, int]]) -> Generator[Block, None, None]:
    """Blocks of steps on the devices, read and transferred ahead in the background.

    Args:
      chunks: a finite iterable of (first step, number of steps), one for each block.

    Yields:
      resident: {'index': [count, B] int32}; streamed: {'image': [count, B, H, W, C] uint8,
      'index', 'label': [count, B] int32, 'extent': [count, B, 2] int32, the last two absent if
      there are none}; sharded P(None, 'data').

    Raises:
      UserError: a file is damaged, or Grain is missing (streamed).
      OtherProcessFailed: another process cannot make its part of the block; none gets it.
    """
    together = Lockstep(enabled=self.mode == 'streamed')
    ahead = stream.keep_ahead(together.tell(self._placed(list(chunks))), self._prefetch)
    try:
      for number in itertools.count():
        start = time.perf_counter()
        block = next(ahead, None)
        if block is None:
          return
        together.wait(number)
        self.wait_seconds += time.perf_counter() - start
        yield block
    finally:
      ahead.close()

  @staticmethod
  def batch(resident: Mapping[str, Any] | None, row: Mapping[str, Array]) -> Batch:
    """One step's batch, pure and jittable: `resident` as above, `row` one step of a block.

    The gather of resident images is local: every device holds all of them and its own rows' index.
    """
    index = row['index']
    if resident is None:
      label, extent = row.get('label'), row.get('extent')
      return Batch(image=row['image'], label=label, index=index, extent=extent)
    label, extent = (
      None if resident[k] is None else resident[k][index] for k in ('label', 'extent')
    )
    return Batch(image=resident['image'][index], label=label, index=index, extent=extent)

  def _placed(self, chunks: list[tuple[int, int]]) -> Generator[Block, None, None]:
    chunks = [(first, count) for first, count in chunks if count > 0]
    if not chunks:
      return
    host = self._index_blocks(chunks) if self.mode == 'resident' else self._image_blocks(chunks)
    try:
      for block in host:
        yield {key: self._place(value) for key, value in block.items()}
    finally:
      host.close()

  def _index_blocks(self, chunks: stream.Chunks) -> Generator[dict[str, np.ndarray], None, None]:
    for first, count in chunks:
      index = [
        order.batch_indices(
          self._seed, step, num_examples=self.num_examples, batch_size=self.batch_size
        )[self._rows]
        for step in range(first, first + count)
      ]
      yield {'index': np.stack(index)}

  def _image_blocks(self, chunks: stream.Chunks) -> Generator[dict[str, np.ndarray], None, None]:
    return stream.read_blocks(
      self._source,
      chunks,
      seed=self._seed,
      batch_size=self.batch_size,
      rows=self._rows,
      labels=not self._drop_labels,
      workers=self._workers,
    )

  def _place(self, local: np.ndarray) -> Array:
    """This process's rows [count, R, ...] -> their shards of the global [count, B, ...]."""
    shape = (local.shape[0], self.batch_size, *local.shape[2:])

    def shard(where: Any) -> np.ndarray:
      lo, hi, _ = where[1].indices(self.batch_size)
      start = int(np.searchsorted(self._rows, lo))
      return local[:, start : start + hi - lo]

    return jax.make_array_from_callback(shape, self._sharding, shard)


def _replicated(source: Source, mesh: Mesh, drop_labels: bool) -> dict[str, Any]:
  everywhere = NamedSharding(mesh, P())
  images, labels, extents = source.whole_arrays()

  def place(value: np.ndarray) -> Array:
    return jax.make_array_from_callback(value.shape, everywhere, lambda where: value[where])

  return {
    'image': Images(place(images.reshape(len(images), -1)), images.shape[1:]),
    'label': None if labels is None or drop_labels else place(labels),
    'extent': None if extents is None else place(extents),
  }


def abstract_data(
  source: Source, *, batch_size: int, mesh: Mesh, mode: str = 'auto'
) -> tuple[dict[str, Any] | None, dict[str, jax.ShapeDtypeStruct]]:
  """(`Pipeline.resident`, a block of one step) in shapes, dtypes and shardings only.

  For compilers: nothing is read or placed, and the mesh may be of devices that are not there.
  """
  everywhere, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, 'data'))

  def of(shape: tuple[int, ...], dtype: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

  block = {'index': of((1, batch_size), np.int32, rows)}
  labels = source.num_classes is not None
  if mode_of(source, mode) == 'streamed':
    block['image'] = of((1, batch_size, *source.stored_shape), np.uint8, rows)
    if source.whole is not None:
      block['extent'] = of((1, batch_size, 2), np.int32, rows)
    return None, block | ({'label': block['index']} if labels else {})
  n = source.num_examples
  return {
    'image': Images(
      of((n, math.prod(source.stored_shape)), np.uint8, everywhere), source.stored_shape
    ),
    'label': of((n,), np.int32, everywhere) if labels else None,
    'extent': of((n, 2), np.int32, everywhere) if source.whole is not None else None,
  }, block


def mode_of(source: Source, mode: str, resident_limit: int = RESIDENT_LIMIT) -> str:
  """'resident' or 'streamed'; for 'auto' it follows from the size of the data."""
  if mode == 'auto':
    return 'resident' if source.nbytes <= resident_limit else 'streamed'
  return mode


def make_pipeline(
  source: Source,
  *,
  batch_size: Count,
  seed: Seed,
  mesh: Mesh,
  mode: Literal['auto', 'resident', 'streamed'] = 'auto',
  workers: CountOrZero | None = None,
  prefetch: Count = 2,
  resident_limit: int = RESIDENT_LIMIT,
  drop_labels: bool = False,
) -> Pipeline:
  """A pipeline over `source` for the devices of `mesh`, whose axis 'data' splits the batch.

  Args:
    source: from `load_source`, or an `ArraySource`.
    batch_size: B of the global batch.
    seed: seed of the order.
    mesh: has an axis 'data'; may span several processes.
    mode: 'resident', 'streamed', or 'auto': resident up to `resident_limit`.
    workers: processes that read (streamed); None or 0 reads with threads of this process, which
      is enough where decoding releases Python's lock, as JPEG and PNG decoding does.
    prefetch: blocks kept ready on the devices.
    resident_limit: bytes of uint8 images.
    drop_labels: hide the labels, as in training without supervision.

  Raises:
    UserError: a value that the annotations do not allow, a batch that the devices cannot share
      equally or that is larger than the data set, or a damaged file (resident).
  """
  given = {'batch_size': batch_size, 'seed': seed, 'mode': mode, 'workers': workers}
  check(make_pipeline, {**given, 'prefetch': prefetch, 'mesh': mesh}, what='make_pipeline')
  if 'data' not in mesh.shape:
    raise UserError(f"the mesh needs an axis 'data', got the axes {mesh.axis_names}")
  devices = mesh.shape['data']
  if batch_size % devices:
    raise UserError(
      f'the batch size {batch_size} is not divisible by {devices} devices: choose a multiple of '
      f'{devices}'
    )
  return Pipeline(
    source,
    batch_size=batch_size,
    seed=seed,
    mesh=mesh,
    mode=mode_of(source, mode, resident_limit),
    workers=workers or 0,
    prefetch=prefetch,
    drop_labels=drop_labels,
  )
