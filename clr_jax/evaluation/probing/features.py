"""Frozen features of a data source, and BatchNorm statistics for an untrained encoder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from clr_jax.augment import Policy, canvas
from clr_jax.augment.canvas import Canvas
from clr_jax.core.consensus import in_all_processes
from clr_jax.core.errors import OtherProcessFailed, UserError
from clr_jax.core.names import look_up
from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array, Batch, Method, Params, RepresentFn, State
from clr_jax.data import Loaded, Whole
from clr_jax.ops import sharding
from clr_jax.ops.batches import batches

BATCH_SIZE = 512
"""Images of a call of `extract`."""


class Features(NamedTuple):
  """Features of a source in its order, on the host.

  Attributes:
    h: [N, F] float32.
    label: [N] int32, or None for unlabeled data.
  """

  h: np.ndarray
  label: np.ndarray | None


def extract(
  represent: RepresentFn,
  params: Params,
  state: State,
  source: Any,
  *,
  batch_size: int = BATCH_SIZE,
  mesh: Mesh | None = None,
  key: str = 'h',
  indices: np.ndarray | None = None,
  augment: Policy | None = None,
  seed: int = 0,
) -> Features:
  """Computes features of a source's images in inference mode, by default without augmentation.

  Beyond rounding, the result does not depend on batch size and number of devices. Passing the same
  `represent` object again avoids recompilation.

  Args:
    represent: `Method.represent`.
    params, state: as in the train state, already placed on the mesh.
    source: source with `num_examples` and `load(indices)`, which returns
      (uint8 [n, H, W, C], int32 [n] or None), or a `data.Source`; of whole images the network sees
      the central squares.
    batch_size: images per call; rounded up to a multiple of the mesh's axis 'data'.
    mesh: mesh to split each batch over its axis 'data'. A process loads only the rows of its own
      devices; every process gets all features.
    key: representation: 'h', 'z', 'logits', ...
    indices: [n] examples; None = all, in order.
    augment: augmentation of each image, with a key from `seed` and the image's index.
    seed: RNG seed of the augmentation.

  Raises:
    UserError: the method has no representation `key`, or an image cannot be read.
    OtherProcessFailed: another process cannot read an image.
  """
  rows = np.arange(source.num_examples) if indices is None else np.asarray(indices)
  size = _images_at_once(batch_size, len(rows), mesh)
  whole = getattr(source, 'whole', None)
  compute = functools.partial(_represent, represent, key, augment, whole, np.uint32(seed))
  reader = _Reader(source, together=mesh is not None and jax.process_count() > 1)
  features, labels = [], []
  for (h, label), count in _one_behind(
    (_forward(compute, params, state, reader, part, mesh), count)
    for part, count in batches(rows, size)
  ):
    features.append(_to_host(h)[:count].astype(np.float32))
    labels.append(None if label is None else _to_host(label)[:count])
  reader.finish()
  return Features(np.concatenate(features), _joined(labels))


def trace(
  represent: RepresentFn, params: Params, state: State, source: Any, num_images: int, mesh: Mesh
) -> tuple[jax.stages.Traced, int]:
  """Traces the program of `extract` for abstract weights; returns it and the images of a call.

  Args:
    represent, params, state, source, mesh: see `extract`.
    num_images: number of images, in the place of those of the source.
  """
  size = _images_at_once(BATCH_SIZE, num_images, mesh)
  of = functools.partial(jax.ShapeDtypeStruct, sharding=sharding.by_rows(mesh))
  extent = None if source.whole is None else of((size, 2), jnp.int32)
  image = of((size, *source.stored_shape), jnp.uint8)
  index = jax.ShapeDtypeStruct((size,), jnp.int32)
  traced = _represent.trace(
    *(represent, 'h', None, source.whole, np.uint32(0), params, state, image, extent, index)
  )
  return traced, size


def pixels(source: Any, *, batch_size: int = 4096) -> Features:
  """Raw pixels in [0, 1], flattened to [N, H * W * C]: the baseline without an encoder."""
  loads = [
    source.load(part[:count]) for part, count in batches(np.arange(source.num_examples), batch_size)
  ]
  h = np.concatenate([image.reshape(len(image), -1).astype(np.float32) / 255 for image, _ in loads])
  return Features(h, _joined([label for _, label in loads]))


def estimate_batch_stats(
  method: Method,
  params: Params,
  state: State,
  source: Any,
  *,
  num_views: int,
  max_batches: int = 16,
  batch_size: int = 256,
  seed: int,
) -> State:
  """Estimates BatchNorm's running statistics of images, for an untrained encoder.

  With the initial statistics (mean 0, variance 1), an untrained encoder is an unfairly weak
  baseline. The statistics of batches of un-augmented images (equal views) are averaged over one
  pass, or over `max_batches` batches if that is shorter. A state without statistics is returned
  unchanged.

  Args:
    source: the training set, see `extract`.
    num_views: number V of the method's views['global'].
    max_batches: largest number of batches; 16 of 256 images are about the span of a running
      average at momentum .9.
    batch_size: images per batch, at most the size of the source.
    seed: RNG seed of the order of the images and of the method's own randomness.
  """
  if not jax.tree.leaves(state.get('batch_stats')):
    return state
  size = min(batch_size, source.num_examples)
  count = min(max_batches, source.num_examples // size)
  order = _training_order(source.num_examples, size, seed)

  @host_jit
  def update(params: Params, state: State, start: Any, batch: Batch, step: Array) -> Any:
    """Running statistics after one batch, starting everywhere from the number `start`."""
    assert batch.image is not None
    view = _to_float(batch.image)[:, None]
    views = {'global': jnp.broadcast_to(view, (len(view), num_views, *view.shape[2:]))}
    rng = jax.random.fold_in(jax.random.key(seed), step)
    before = jax.tree.map(lambda x: jnp.full_like(x, start), state['batch_stats'])
    state = {**state, 'batch_stats': before}
    _, carry = method.embed(params, state, batch._replace(image=None, views=views), rng, step)
    return carry['batch_stats']

  # new = kept * old + (1 - kept) * (statistics of the batch): the factor `kept`, which depends on
  # momentum and number of views, follows from two different values of old.
  total, kept = None, None
  for step in range(count):
    index = next(order)
    image, label = source.load(index)
    batch = Batch(image=image, label=label, index=index)
    new = update(params, state, 0.0, batch, np.int32(step))
    if total is None:
      far = update(params, state, 1e6, batch, np.int32(step))
      kept = jax.tree.map(lambda a, b: (a - b) / 1e6, far, new)
    total = new if total is None else jax.tree.map(jnp.add, total, new)

  def average(total: Array, kept: Array, old: Array) -> Array:
    updated = kept < 1  # False in frozen parts of the network
    return jnp.where(updated, total / (count * jnp.where(updated, 1 - kept, 1)), old)

  statistics = jax.tree.map(average, total, kept, state['batch_stats'])
  state = {**state, 'batch_stats': statistics}
  if 'target' in state:  # an EMA target that was never updated is a copy of the online network
    statistics = {name: state['batch_stats'][name] for name in state['target']['batch_stats']}
    state = {**state, 'target': {**state['target'], 'batch_stats': statistics}}
  return state


def _images_at_once(batch_size: int, num_images: int, mesh: Mesh | None) -> int:
  """Images of a call, a multiple of the mesh's axis 'data'."""
  size = min(batch_size, num_images)
  shards = 1 if mesh is None else mesh.shape[sharding.AXIS]
  return -(-size // shards) * shards


def _to_float(image: Array) -> Array:
  return image.astype(jnp.float32) / 255


@functools.partial(host_jit, static_argnums=(0, 1, 2, 3))
def _represent(
  represent: Callable[..., dict[str, Array]],
  key: str,
  augment: Policy | None,
  whole: Whole | None,
  seed: Any,
  params: Params,
  state: State,
  image: Array,
  extent: Array | None,
  index: Array,
) -> Array:
  given: Any = _to_float(image) if extent is None else Canvas(image, extent)
  if augment is not None:
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(index)
    one = lambda key, given: augment(key, jax.tree.map(lambda x: x[None], given))[0]  # noqa: E731
    given = jax.vmap(one)(keys, given)
  elif whole is not None:
    square = {'shorter': whole.shorter, 'size': whole.size}
    given = canvas.center(given, **square, method=whole.interpolation)
  image = given
  return look_up(represent(params, state, image), key, 'representation')


class _Reader:
  """Reads a source, and reports images that one of several processes cannot read at the end.

  Until then it substitutes black images: if a process stopped alone, the others would wait forever
  in the computation of its batch.
  """

  def __init__(self, source: Any, *, together: bool):
    self._source, self._together = source, together
    self._failure: UserError | None = None

  def load(self, rows: np.ndarray) -> Loaded:
    """Loads whole images, or images as the source does.

    Raises a UserError at once in a single process.
    """
    source = self._source
    whole = getattr(source, 'whole', None)
    try:
      if self._failure is None:
        return Loaded(*source.load(rows)) if whole is None else source.load_whole(rows)
    except UserError as error:
      if not self._together:
        raise
      self._failure = error
    shape = source.image_shape if whole is None else source.stored_shape
    images = np.zeros((len(rows), *shape), np.uint8)
    labels = None if source.num_classes is None else np.zeros(len(rows), np.int32)
    return Loaded(images, labels, None if whole is None else np.ones((len(rows), 2), np.int32))

  def finish(self) -> None:
    """Raises UserError or OtherProcessFailed in all processes if one could not read an image."""
    if self._together and not in_all_processes(self._failure is None):
      raise self._failure or OtherProcessFailed()


def _forward(
  compute: Callable[..., Array],
  params: Params,
  state: State,
  source: _Reader,
  rows: np.ndarray,
  mesh: Mesh | None,
) -> tuple[Any, Any]:
  """Features and labels of one full batch, possibly still being computed."""
  loaded = source.load(rows) if mesh is None else _load_sharded(source, rows, mesh)
  return compute(params, state, loaded.image, loaded.extent, rows.astype(np.int32)), loaded.label


def _load_sharded(source: _Reader, rows: np.ndarray, mesh: Mesh) -> Loaded:
  """Images and labels as global arrays; each process reads only the rows of its devices."""
  by_rows = sharding.by_rows(mesh)
  mine = np.zeros(len(rows), bool)
  for (where,) in by_rows.addressable_devices_indices_map((len(rows),)).values():  # type: ignore
    mine[where] = True

  def place(local: np.ndarray | None) -> Array | None:
    if local is None:
      return None
    full = np.zeros((len(rows), *local.shape[1:]), local.dtype)
    full[mine] = local
    return jax.make_array_from_callback(full.shape, by_rows, lambda where: full[where])

  return Loaded(*map(place, source.load(rows[mine])))


def _to_host(array: Any) -> np.ndarray:
  if jax.process_count() > 1 and isinstance(array, jax.Array) and not array.is_fully_replicated:
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
  return np.asarray(array)


def _joined(labels: list[Any]) -> np.ndarray | None:
  return None if labels[0] is None else np.concatenate(labels).astype(np.int32)


def _one_behind(items: Iterator[Any]) -> Iterator[Any]:
  """Yields each item after the next was started, so that loading overlaps with computation."""
  previous = None
  for item in items:
    if previous is not None:
      yield previous
    previous = item
  if previous is not None:
    yield previous


def _training_order(num_examples: int, size: int, seed: int) -> Iterator[Any]:
  """Endless batches of distinct examples: shuffle, batch, drop the remainder, repeat."""
  rng = np.random.default_rng(seed)
  while True:
    order = rng.permutation(num_examples).astype(np.int32)
    for start in range(0, num_examples - size + 1, size):
      yield order[start : start + size]
