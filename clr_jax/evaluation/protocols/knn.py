"""Exact k-nearest-neighbor classification of frozen features."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from clr_jax.core.bounds import Count, Rows, Temperature
from clr_jax.core.errors import UserError
from clr_jax.core.options import SEVERAL, checked, options_of, takes_options_of
from clr_jax.core.programs import host_jit
from clr_jax.core.types import Array
from clr_jax.evaluation.probing import placement
from clr_jax.evaluation.probing.features import Features
from clr_jax.evaluation.probing.planned import Program, Sizes
from clr_jax.evaluation.probing.sets import Sets
from clr_jax.evaluation.probing.subject import Kind, Subject
from clr_jax.ops.batches import batches
from clr_jax.ops.sharding import AXIS
from clr_jax.ops.similarity import l2_normalize
from clr_jax.rundir.results import Measurement

Distance = Literal['cosine', 'euclidean']
Weights = Literal['vote', 'uniform']
_OVER_DEVICES = PartitionSpec(None, AXIS)  # queries, and what is known of each


@checked
def knn(
  train: Features,
  test: Features,
  features: Kind = 'trained',
  *,
  k: Annotated[Count, SEVERAL] = 200,
  temperature: Temperature = 0.1,
  distance: Distance = 'cosine',
  weights: Weights = 'vote',
  block: Rows = 4096,
) -> list[Measurement]:
  """Measures top-1 test accuracy, in [0, 1], of a vote among the k nearest training features.

  The default is the vote of InstDisc and MoCo (Wu et al. 2018; k = 200, T = .1 as in MoCo's CIFAR
  notebook). The search is exact: ties between neighbors go to the first in the bank, ties between
  classes to the smallest label.

  Args:
    train, test: the bank and the queries, with labels.
    features: kind of the features, for the record.
    k: number of neighbors, at most the size of the bank (`params` has the used and the given k).
    temperature: temperature T of the vote; unused with uniform weights.
    distance: 'cosine', sim = <x, y> of unit features; 'euclidean', sim = -||x - y||^2 / 2 of raw
      features, which on unit features is the same vote.
    weights: 'vote', each neighbor counts exp(sim / T); 'uniform', each counts 1.
    block: rows of bank and queries compared at a time. Queries are on the device, or split over
      the devices of this process if bank and queries are large; of the bank only `block` rows at a
      time. Beyond rounding the result does not depend on it.

  Raises:
    UserError: features without labels.
  """
  start = time.perf_counter()
  predicted = predict(
    train, test, k=k, temperature=temperature, distance=distance, weights=weights, block=block
  )
  params: dict[str, Any] = {'k': min(k, len(train.h)), 'k_asked': k}
  params |= {'distance': distance, 'weights': weights}
  if weights == 'vote':
    params['temperature'] = temperature
  params |= {'num_train': len(train.h), 'num_test': len(test.h)}
  return [
    Measurement(
      metric='top1',
      value=float(np.mean(predicted == test.label)),
      protocol='knn',
      params=params,
      features=features,
      seconds=time.perf_counter() - start,
    )
  ]


@takes_options_of(knn)
def measure(subject: Subject, **options: Any) -> Iterable[Measurement]:
  """Runs `knn` on the features of a subject."""
  return knn(*subject.features, subject.kind, **options)


def programs(sizes: Sizes, options: Mapping[str, Any], devices: Sequence[Any]) -> Iterator[Program]:
  """Yields the program of `knn`; see `protocols`. UserError for too many neighbors."""
  options = {name: option.default for name, option in options_of(knn).items()} | {**options}
  _check_k(options['k'], sizes.train)
  k, num = options['k'], (sizes.train, sizes.test)
  size, rows, mesh = _layout(*num, 4 * sizes.width, options['block'], devices)
  parts = -(-sizes.test // size)
  whole, split = SingleDeviceSharding(devices[0]), SingleDeviceSharding(devices[0])
  if mesh is not None:
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, _OVER_DEVICES)
  of = jax.ShapeDtypeStruct
  best = of((parts, size, k), jnp.float32, sharding=split)
  index = of((parts, size, k), jnp.int32, sharding=split)
  yield Program(
    f'{rows:,} rows of the bank against {sizes.test:,} queries',
    merge.trace(
      of((parts, size, sizes.width), jnp.float32, sharding=split),
      of((rows, sizes.width), jnp.float32, sharding=whole),
      of((sizes.width,), jnp.float32, sharding=whole),
      0,
      sizes.train,
      (best, index),
      options['distance'],
      mesh,
    ),
    calls=-(-sizes.train // rows),
    flops=2 * parts * size * rows * sizes.width,
    devices=1 if mesh is None else mesh.size,
  )


def _layout(
  num_bank: int, num_query: int, row_bytes: int, block: int, devices: Sequence[Any]
) -> tuple[int, int, Mesh | None]:
  """(queries of a block, rows of the bank of a block, mesh that splits queries or None)."""
  mesh = placement.mesh_for((num_bank + num_query) * row_bytes, devices)
  size = min(block, num_query)
  return size if mesh is None else -(-size // mesh.size) * mesh.size, min(block, num_bank), mesh


def check(sets: Sets, options: Mapping[str, Any]) -> None:
  """Raises a UserError for more neighbors than training images."""
  _check_k(options.get('k', 1), sets.train.num_examples, f' of {sets.train.name}')


def _check_k(k: int, most: int, where: str = '') -> None:
  if k > most:
    raise UserError(f'k={k} is more than the {most} training images{where}: lower k')


def predict(
  train: Features,
  test: Features,
  *,
  k: int,
  temperature: float,
  distance: Distance,
  weights: Weights,
  block: int,
) -> np.ndarray:
  """Predicts the labels [M] of the test examples as in `knn`."""
  if train.label is None or test.label is None:
    raise UserError('kNN evaluation needs labels; give labeled data for training and test')
  used = min(k, len(train.h))
  similarity, index = nearest(train.h, test.h, k=used, distance=distance, block=block)
  classes, label = np.unique(train.label, return_inverse=True)
  # Relative to the nearest neighbor, or exp would underflow for large Euclidean distances.
  relative = (similarity - similarity[:, :1]) / temperature
  vote = np.exp(relative) if weights == 'vote' else np.ones_like(relative)
  scores = np.zeros((len(test.h), len(classes)))
  np.add.at(scores, (np.arange(len(scores))[:, None], label[index]), vote)
  return classes[np.argmax(scores, axis=1)]


def nearest(
  bank: np.ndarray,
  query: np.ndarray,
  *,
  k: int,
  distance: Distance = 'cosine',
  block: int = 4096,
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the k most similar rows of the bank for every query, in order, ties by position.

  Args:
    bank: [N, F], stays on the host.
    query: [M, F].
    k: number of rows, at most N.
    distance, block: see `knn`.

  Returns:
    (similarity [M, k] as defined in `knn`, position in the bank [M, k]).
  """
  # A common shift does not change distances and preserves digits that |x|^2 would lose.
  shift = bank.mean(0, dtype=np.float64).astype(np.float32)
  row_bytes = bank.shape[1] * bank.dtype.itemsize
  size, rows, mesh = _layout(len(bank), len(query), row_bytes, block, jax.local_devices())
  to = None if mesh is None else NamedSharding(mesh, _OVER_DEVICES)
  blocks = [of for of, _ in batches(np.arange(len(query)), size)]
  queries = jax.device_put(query[np.stack(blocks)], to)
  best = (
    jnp.full((*queries.shape[:2], k), -jnp.inf, queries.dtype, device=to),
    jnp.zeros((*queries.shape[:2], k), jnp.int32, device=to),
  )
  for of, _ in batches(np.arange(len(bank)), rows):
    best = merge(queries, bank[of], shift, int(of[0]), len(bank), best, distance, mesh)
  similarity, index = (np.asarray(x).reshape(-1, k)[: len(query)] for x in best)
  return similarity, index


@functools.partial(host_jit, static_argnums=(6, 7))
def merge(
  queries: Array,
  rows: Array,
  shift: Array,
  start: Any,
  num_bank: Any,
  best: tuple[Array, Array],
  distance: str,
  mesh: Mesh | None,
) -> tuple[Array, Array]:
  """Program of `nearest`: updates the top-k of all queries with another block of the bank."""
  update = functools.partial(_merge, distance=distance)
  if mesh is not None:  # each device has its own queries, and all rows of the block
    split, whole = _OVER_DEVICES, PartitionSpec()
    update = jax.shard_map(
      update, mesh=mesh, in_specs=(split, whole, whole, whole, whole, split), out_specs=split
    )
  return update(queries, rows, shift, start, num_bank, best)


def _merge(
  queries: Array,
  rows: Array,
  shift: Array,
  start: Any,
  num_bank: Any,
  best: tuple[Array, Array],
  distance: str,
) -> tuple[Array, Array]:
  position = start + jnp.arange(len(rows), dtype=jnp.int32)
  prepare = l2_normalize if distance == 'cosine' else lambda x: x - shift[None, :]
  rows = prepare(rows)

  def one(args: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    query, similarity, index = args
    query = prepare(query)
    new = jnp.matmul(query, rows.T, precision='highest')
    if distance == 'euclidean':
      norms = jnp.sum(query**2, axis=1)[:, None] + jnp.sum(rows**2, axis=1)[None, :]
      new = jnp.minimum(new - norms / 2, 0)
    new = jnp.where((position < num_bank)[None, :], new, -jnp.inf)
    # Earlier rows of the bank come first, and top_k prefers the first of equal values.
    similarity, order = jax.lax.top_k(
      jnp.concatenate([similarity, new], axis=1), similarity.shape[1]
    )
    both = jnp.concatenate([index, jnp.broadcast_to(position[None, :], new.shape)], axis=1)
    return similarity, jnp.take_along_axis(both, order, axis=1)

  return jax.lax.map(one, (queries, *best))
